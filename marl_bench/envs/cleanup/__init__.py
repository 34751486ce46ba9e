"""Cleanup: apples grow only while somebody keeps the river clean; map and rates, environment, scripted policies."""
