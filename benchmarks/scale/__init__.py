"""What one process holds: `python -m benchmarks.scale`. The results are the table of docs/operations.md."""
