"""Worlds: one file a game."""
