"""Who may use the server over HTTP."""
