"""What a client may call. Thin: check the arguments, ask the backend or the scheduler once, make one result."""
