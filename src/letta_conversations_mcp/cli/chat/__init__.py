"""`chat`: talk with agents in a terminal, or line by line through a pipe. Nothing here is imported for a server."""
