"""The `demo` command: the main job, shown, with a real agent, and a scripted model where there is no other."""
