"""One message's way: queued, delivered, followed, recovered."""
