"""How long a test waits for something that is certain to come, before it says that the program hangs."""

HANG_SECONDS = 60
"""Never a promise of the server: a test that passes does not wait, and a busy machine needs a multiple of the usual."""
