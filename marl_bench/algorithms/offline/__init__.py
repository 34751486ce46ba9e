"""Learners from data sets: conservative Q-learning, its rivals, and imitation."""
