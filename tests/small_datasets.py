"""Tiny data sets for tests: random numbers in episodes of given lengths."""

from __future__ import annotations

import numpy as np

from marl_bench.datasets.schema import LAST_FIELDS, ROW_FIELDS, Trajectories


def episodes(*lengths: int, seed: int = 0, agents: int = 3, discrete: bool = True, team: bool = False) -> Trajectories:
    """Episodes of these lengths, every second of which ends by termination, the others by truncation.

    Args:
      lengths: of the episodes. agents: N. discrete: numbered actions, with legal ones; else vectors of 2 and no legal actions.
      team: whether all agents have the same reward.
    """
    rng = np.random.default_rng(seed)
    steps, count, ends = sum(lengths), len(lengths), np.cumsum(lengths) - 1
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    terminals, truncations = np.zeros((2, steps, agents), bool)
    terminals[ends[1::2]], truncations[ends[::2]] = True, True
    legals, last_legals = rng.random((steps, agents, 5)) < 0.6, rng.random((count, agents, 5)) < 0.6
    actions = rng.integers(0, 5, (steps, agents)).astype(np.int32)
    np.put_along_axis(legals, actions[..., None], True, axis=2)
    rewards = normal(steps, agents)
    return Trajectories(
        observations=normal(steps, agents, 4),
        actions=actions if discrete else np.clip(normal(steps, agents, 2), -1, 1),
        rewards=np.repeat(rewards[:, :1], agents, axis=1) if team else rewards,
        terminals=terminals,
        truncations=truncations,
        state=normal(steps, 6),
        legals=legals if discrete else None,
        last_observations=normal(count, agents, 4),
        last_state=normal(count, 6),
        last_legals=last_legals if discrete else None,
    )


def assert_same(found: Trajectories, wanted: Trajectories, without: tuple[str, ...] = ()) -> None:
    """Equal bit for bit, types included; the fields `without` are missing in `found`."""
    for name in ROW_FIELDS + LAST_FIELDS:
        one, other = getattr(found, name), getattr(wanted, name)
        if name in without or other is None:
            assert one is None, name
            continue
        assert one is not None and one.dtype == other.dtype and one.shape == other.shape, name
        assert one.tobytes() == other.tobytes(), name
