"""The data types, the backend protocol and the errors. Knows neither MCP nor any kind of server."""
