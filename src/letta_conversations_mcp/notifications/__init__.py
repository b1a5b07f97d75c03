"""Notifications that a conversation changed."""
