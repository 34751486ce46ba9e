"""Cooperative mining: iron is mined alone, gold only by two."""
