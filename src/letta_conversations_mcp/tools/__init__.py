"""What a client may call. Thin: check the arguments, ask the backend or the sender once, make one result."""
