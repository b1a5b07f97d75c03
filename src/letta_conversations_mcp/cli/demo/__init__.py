"""The tour that `make demo` shows."""
