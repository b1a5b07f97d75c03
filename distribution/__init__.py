"""Everything that installs this server elsewhere, written from one description: `python -m distribution`."""
