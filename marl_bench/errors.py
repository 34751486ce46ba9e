"""The two failures that a user sees as one sentence, and the exit codes they stand for."""

from __future__ import annotations


class UsageError(Exception):
    """A wrong request: unknown name, value out of range, conflicting options. Exit code 2."""


class RunError(Exception):
    """A right request that failed: disk full, damaged file, foreign directory. Exit code 1."""
