"""Names: nearest-match hints for misspellings, and the one allow-list for names that become paths."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))}


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known name closest to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def safe_name(name: str, what: str = "name") -> str:
    """Return `name` if it can safely become a file or folder name.

    Letters, digits, `.`, `_`, `-`, at most 100 characters, not starting with a dot, and none of the names that
    some operating systems reserve.

    Raises:
      ValueError: naming the offender and the rule.
    """
    if not _SAFE_NAME.fullmatch(name) or name.split(".")[0].lower() in _RESERVED:
        raise ValueError(
            f"{what} {name[:120]!r}: use 1-100 letters, digits, '.', '_' or '-', starting with a letter or digit"
        )
    return name
