"""Gift refinements: tokens that are worth more to whom they are given."""
