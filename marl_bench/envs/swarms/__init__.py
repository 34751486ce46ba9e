"""Swarms: many identical agents that sense locally, move by a bounded control, and are paid for the order of the whole."""
