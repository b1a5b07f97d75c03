"""Conversations themselves: the nouns, the verbs, turns, transcripts and errors. Knows neither MCP nor any server."""
