"""Territory: walls that pay whoever holds them, and shots that take them away."""
