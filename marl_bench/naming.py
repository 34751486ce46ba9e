"""Names: nearest-match hints for misspellings, and the one allow-list for names that become paths."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))}


def nearest(name: str, known: Iterable[str], most: int = 1) -> str:
    """`"; did you mean 'x'?"` for the known names closest to `name`, at most `most` of them, or an empty string.

    Capitals and small letters count as the same.
    """
    spelled = {entry.lower(): entry for entry in known}
    matches = [spelled[match] for match in difflib.get_close_matches(name.lower(), spelled, n=most, cutoff=0.5)]
    *others, last = [repr(match) for match in matches] or [""]
    return f"; did you mean {', '.join(others)}{' or ' * bool(others)}{last}?" if matches else ""


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
