"""Names of level-based foraging tasks, such as `Foraging-2s-8x8-2p-2f-coop-v3` and `Foraging-grid-8x8-2p-2f-v3`.

The grammar is that of PyPI `lbforaging` 2.0.0, a little wider: any board, numbers of agents and foods, and any sight; the
tokens in any order; `Foraging-` (not in `make`) and the version may be missing, as Gymnasium's `make` takes the newest version of
an id without one.

| token | field |
| --- | --- |
| `8x8` | size=8; `6x9`: size=6, columns=9; required |
| `2p` | agents=2; required |
| `3f` | food=3; required |
| `2s` | sight=2; without it the whole board is seen |
| `coop` | force_coop=True |
| `ind` | max_food_level=1; with `coop`, too, all food has level 1, so that one agent is enough for any |
| `pen` | penalty=0.1 |
| `grid` | grid_observation=True |
| `v3` | the version; others are rejected, because they named tasks with other levels |
"""

from __future__ import annotations

import re
from typing import Any

from marl_bench.naming import nearest

PREFIX = "Foraging"
VERSION = "v3"

_FLAGS: dict[str, dict[str, Any]] = {
    "coop": {"force_coop": True},
    "ind": {"max_food_level": 1},
    "pen": {"penalty": 0.1},
    "grid": {"grid_observation": True},
}
_COUNTS = {"p": "agents", "f": "food", "s": "sight"}
_MEANING = {"size": "a board such as 8x8", "agents": "agents such as 2p", "food": "food such as 2f"}


def parse(name: str) -> tuple[str, dict[str, Any]]:
    """Read the name of a task.

    Args:
      name: see the docstring of this module.
    Returns:
      "foraging", and the fields that the name sets.
    Raises:
      ValueError: naming the token that cannot be read, stands twice or is missing.
    """
    tokens = name.split("-")
    if tokens[0] == PREFIX:
        tokens = tokens[1:]
    if tokens and tokens[-1] == VERSION:
        tokens = tokens[:-1]
    fields: dict[str, Any] = {}
    for token in tokens:
        found = _read(token)
        if set(found) & set(fields):
            raise ValueError(f"{token!r} says for a second time what {' and '.join(set(found) & set(fields))} is")
        fields |= found
    for field, meaning in _MEANING.items():
        if field not in fields:
            raise ValueError(f"{meaning} is missing (grammar: Foraging[-grid][-2s]-8x8-2p-2f[-coop][-ind][-pen]-v3)")
    return "foraging", fields


def _read(token: str) -> dict[str, Any]:
    """The fields of one token. Raises ValueError."""
    if token in _FLAGS:
        return _FLAGS[token]
    board = re.fullmatch(r"(\d*[1-9]\d*)x(\d*[1-9]\d*)", token)
    if board:
        rows, cols = int(board[1]), int(board[2])
        return {"size": rows} if rows == cols else {"size": rows, "columns": cols}
    count = re.fullmatch(r"(\d+)([pfs])", token)
    if count and int(count[1]) > 0:
        return {_COUNTS[count[2]]: int(count[1])}
    if count:
        raise ValueError(f"{token!r}: {_COUNTS[count[2]]} must be at least 1, such as 2{count[2]}")
    if re.fullmatch(r"\d+x\d+", token):
        raise ValueError(f"{token!r}: the sides of the board must be at least 3, such as 8x8")
    if re.fullmatch(r"v\d+", token):
        raise ValueError(f"{token!r}: the version must be {VERSION}, and stand at the end")
    count = re.fullmatch(r"(\d+)[a-z]", token)
    if count:
        meant = ", ".join(f"{count[1]}{letter} ({name})" for letter, name in _COUNTS.items())
        raise ValueError(f"cannot read {token!r}; there are {meant}")
    known = ["8x8", "2p", "2f", "2s", *_FLAGS, VERSION]
    raise ValueError(f"cannot read {token!r}{nearest(token, known)} (parts: {', '.join(known)}, with '-' between them)")
