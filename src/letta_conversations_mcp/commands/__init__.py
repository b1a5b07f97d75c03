"""What each command does. Imported when it is called, because a server that starts over stdio needs only its own."""
