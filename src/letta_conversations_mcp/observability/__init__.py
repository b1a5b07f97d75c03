"""What operators see: logs, metrics, traces and readiness."""
