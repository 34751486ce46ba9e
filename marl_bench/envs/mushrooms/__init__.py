"""Externality mushrooms: what one agent eats feeds or starves the others."""
