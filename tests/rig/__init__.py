"""What the tests talk to: a fake Letta server, a real one, and the scripted model behind both."""
