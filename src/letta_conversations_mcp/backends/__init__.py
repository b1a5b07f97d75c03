"""The places where conversations live, each behind `core.backend.Backend`."""
