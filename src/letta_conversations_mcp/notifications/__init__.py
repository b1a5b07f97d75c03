"""Who is told that a conversation changed."""
