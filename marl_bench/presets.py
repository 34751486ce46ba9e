"""Names that stand for an environment with some of its fields set. Pure data: nothing here imports an environment.

  - `PRESETS`: fixed names, such as `prisoners_dilemma`;
  - `GRAMMARS`: families of names that a parser reads, such as `Foraging-8x8-2p-2f-coop-v3`;
  - `SCHEMES`: other suites' environments by their own names, such as `jumanji:LevelBasedForaging-v0`.

All of them work wherever an environment's name does; fields given beside the name win over those that it sets.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "coin_game_lola": ("coin_game", {"coins": 1, "horizon": 150}),
    "coin_game_5x5": ("coin_game", {"size": 5}),
}
"""Name -> (registered environment, fields it sets)."""

GRAMMARS: dict[str, str] = {}
"""Prefix of a name -> address of `parse(name) -> (registered environment, fields)`, which raises ValueError naming the
part that it cannot read."""

SCHEMES: dict[str, str] = {}
"""Scheme of `SCHEME:ID` -> address of a class with the field `id`."""
