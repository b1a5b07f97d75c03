"""What an operator sees of the server from outside: logs, metrics, traces, and whether it is alive and ready."""
