"""Level-based foraging: agents of different levels load food together."""
