"""Serving over HTTP: the application, authentication (`auth`), and limits."""
