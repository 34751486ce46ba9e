"""`common_pool`: a shared, regrowing stock that several agents harvest (fishery, pasture, clean water)."""
