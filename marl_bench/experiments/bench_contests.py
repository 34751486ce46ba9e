"""The contests of `marl-bench bench envs`: which of our worlds meets which game of another package, and with what settings.

Each pair has the same rules, sizes, observations and episode lengths; what differs in spite of that stands in a comment.
How to add one: `marl_bench.experiments.bench_envs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from marl_bench.adapters.extras import import_extra
from marl_bench.experiments.bench_envs import Contest
from marl_bench.experiments.bench_rollouts import Rollout, jaxmarl_rollouts
from marl_bench.registry import make


def _jaxmarl(name: str, **settings: Any) -> Callable[[int], dict[str, Rollout]]:
    def rollouts(batch: int) -> dict[str, Rollout]:
        jaxmarl = import_extra("jaxmarl", "jaxmarl")
        return jaxmarl_rollouts(lambda: jaxmarl.make(name, **settings), batch)

    return rollouts


CONTESTS = (
    Contest(
        name="coin_game",
        peer="jaxmarl",
        ours=lambda: make("coin_game"),
        # One inner episode of 100 steps: JaxMARL's default of ten times ten steps draws positions ten times as often.
        theirs=_jaxmarl("coin_game", num_inner_steps=100, num_outer_steps=1),
    ),
)
"""In the order in which they run."""
