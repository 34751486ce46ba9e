"""The checks behind `marl_bench.check.check_environment`, one module a subject.

A check is a function of a `Probe` that yields plain sentences: which method does what wrong, and what to do. Checks are
independent: each falls back to a slower way of running the environment where the fast one fails.
"""
