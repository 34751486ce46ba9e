"""`equal_line`: agents spread out on a segment."""
