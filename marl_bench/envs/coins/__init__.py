"""Coins on a large grid: rules, environment, scripted policies."""
