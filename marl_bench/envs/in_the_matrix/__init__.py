"""Games in the matrix: gathered resources decide what an agent plays in a matrix game when two of them meet."""
