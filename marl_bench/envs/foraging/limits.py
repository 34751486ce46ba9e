"""Which settings of level-based foraging can be played at all: one clear error for each that cannot."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from marl_bench.environment import check_choice, check_integer, check_range
from marl_bench.envs.foraging.generation import MASTERS

VARIANTS = ("lbforaging", "jumanji")
COLLISIONS = ("lbf", "strict")
TEAM_REWARDS = ("none", "sum", "mean")
STATE_VIEWS = ("state", "observations")

MAX_SIDE = 100
MAX_LEVEL = 42
"""Three agents of this level still fit into the int8 of a food."""


def check(env: Any) -> None:
    """Check all fields of a `Foraging` environment.

    Values of leaves that are not plain numbers (tracers, arrays on a device) are not looked at.

    Raises:
      ValueError: for a value out of range, and for settings that contradict each other, with the remedy.
      TypeError: for a value of the wrong type.
    """
    check_choice(env, "variant", VARIANTS)
    check_choice(env, "team_reward", TEAM_REWARDS)
    check_choice(env, "state_view", STATE_VIEWS)
    for name in ("force_coop", "normalize_reward", "observe_agent_levels", "grid_observation", "timeout_is_terminal"):
        if not isinstance(getattr(env, name), (bool, np.bool_)):
            raise TypeError(f"{name}={getattr(env, name)!r}: must be True or False (field of Foraging)")
    check_integer(env, "size", 3, MAX_SIDE)
    if env.columns is not None:
        check_integer(env, "columns", 3, MAX_SIDE)
    check_integer(env, "agents", 1)
    check_integer(env, "food", 1)
    if env.sight is not None:
        check_integer(env, "sight", 1)
    check_integer(env, "horizon", 1)
    check_range(env, "penalty", 0.0)
    if env.collision is not None:
        check_choice(env, "collision", COLLISIONS)
    if env.variant == "jumanji" and env.collision == "lbf":
        raise ValueError(
            "collision='lbf' with variant='jumanji': Jumanji's agents never enter each other's cells; leave collision "
            "out, or use variant='lbforaging' (fields of Foraging)"
        )
    _check_room(env)
    _check_levels(env)


def _check_room(env: Any) -> None:
    rows, cols = env.rows, env.cols
    interior = (rows - 2) * (cols - 2)
    if env.agents + 1 > rows * cols:
        raise ValueError(
            f"agents={env.agents}: a board of {rows} x {cols} cells has no room for them and a food; use fewer agents or a "
            "larger size (field of Foraging)"
        )
    if env.food > interior:
        raise ValueError(
            f"food={env.food}: a board of {rows} x {cols} has only {interior} cells off its border, where food may lie; "
            "use less food or a larger size (field of Foraging)"
        )
    if env.variant == "jumanji" and interior - env.agents <= 5 * env.food:
        raise ValueError(
            f"food={env.food}: variant='jumanji' places every food, which needs (rows - 2)(cols - 2) - agents > 5 food, here "
            f"{interior - env.agents} > {5 * env.food}; use less food or a larger size (field of Foraging)"
        )


def _levels(env: Any, name: str, count: int) -> np.ndarray | None:
    """[count] levels of a field; None if they are not known yet, or are those of a stack of environments.

    Raises:
      TypeError: for what is neither an integer nor a list of integers. ValueError: for a wrong length, or out of range.
    """
    value = getattr(env, name)
    if isinstance(value, np.ndarray) and value.ndim > 0:
        return None  # levels of several environments, stacked: lists of levels are tuples or lists
    listed = isinstance(value, (list, tuple))
    entries = list(value) if listed else [value]
    if not all(isinstance(entry, (numbers.Number, np.generic, str, bool)) for entry in entries):
        return None
    for entry in entries:
        if isinstance(entry, (str, bool)) or entry != int(np.real(entry)):  # pyright: ignore
            raise TypeError(f"{name}={value!r}: must be an integer, or a list of integers (field of Foraging)")
    if listed and len(entries) != count:
        raise ValueError(f"{name}={value!r}: a list must have {count} entries, one each (field of Foraging)")
    found = np.array([int(np.real(entry)) for entry in entries])
    highest = MAX_LEVEL if "player" in name else MASTERS * MAX_LEVEL
    if found.min() < 1 or found.max() > highest:
        raise ValueError(f"{name}={value!r}: must be between 1 and {highest} (field of Foraging)")
    return np.broadcast_to(found, (count,))


def _check_levels(env: Any) -> None:
    low = _levels(env, "min_player_level", env.agents)
    high = _levels(env, "max_player_level", env.agents)
    food_low = _levels(env, "min_food_level", env.food)
    food_high = None if env.max_food_level is None else _levels(env, "max_food_level", env.food)
    if low is not None and high is not None and (low > high).any():
        raise ValueError(
            f"min_player_level={env.min_player_level!r} is above max_player_level={env.max_player_level!r} "
            "(fields of Foraging)"
        )
    if food_low is not None and food_high is not None and not env.force_coop and (food_low > food_high).any():
        raise ValueError(
            f"min_food_level={env.min_food_level!r} is above max_food_level={env.max_food_level!r} (fields of Foraging)"
        )
    if food_low is not None and low is not None and env.max_food_level is None and not env.force_coop:
        weakest = int(np.sort(low)[:MASTERS].sum())
        if food_low.max() > weakest:
            raise ValueError(
                f"min_food_level={env.min_food_level!r}: the highest level is the sum of the three weakest agents', which may "
                f"be {weakest}; set max_food_level, or raise min_player_level (field of Foraging)"
            )
    if food_high is None or high is None:
        return
    # Only four cells touch a food; more agents than that can load it only by standing on one cell.
    strongest = int(np.sort(high)[::-1][: 4 if env.strict else None].sum())
    if food_high.max() > strongest:
        raise ValueError(
            f"max_food_level={env.max_food_level!r}: all agents that can stand beside a food have levels of at most "
            f"{strongest} together, so that such food can never be loaded; lower it, raise max_player_level, or use more "
            "agents (field of Foraging)"
        )


def top_levels(env: Any) -> tuple[int, int] | None:
    """Highest level of an agent and of a food; None if the fields are not plain numbers."""
    high = _levels(env, "max_player_level", env.agents)
    food = None if env.max_food_level is None else _levels(env, "max_food_level", env.food)
    if high is None or (food is None and env.max_food_level is not None):
        return None
    return int(high.max()), int(np.sort(high)[:MASTERS].sum() if food is None else food.max())
