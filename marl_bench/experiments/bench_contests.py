"""The contests of `marl-bench bench envs`: which of our worlds meets which game of another package, and with what settings.

Each pair has the same rules, sizes, observations and episode lengths; what differs in spite of that stands in a comment.
How to add one: `marl_bench.experiments.bench_envs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from marl_bench.adapters.extras import import_extra
from marl_bench.experiments.bench_envs import Contest, Figure
from marl_bench.experiments.bench_rollouts import Rollout, jaxmarl_rollouts, jumanji_rollouts
from marl_bench.registry import make


def _jaxmarl(name: str, **settings: Any) -> Callable[[int], dict[str, Rollout]]:
    def rollouts(batch: int) -> dict[str, Rollout]:
        jaxmarl = import_extra("jaxmarl", "jaxmarl")
        return jaxmarl_rollouts(lambda: jaxmarl.make(name, **settings), batch)

    return rollouts


def _their_foraging(size: int, agents: int, food: int) -> Callable[[int], dict[str, Rollout]]:
    def rollouts(batch: int) -> dict[str, Rollout]:
        jumanji = import_extra("jumanji", "jumanji")
        generator = import_extra("jumanji.environments.routing.lbf.generator", "jumanji").RandomGenerator(
            grid_size=size, fov=size, num_agents=agents, num_food=food, max_agent_level=2, force_coop=True
        )
        return jumanji_rollouts(lambda: jumanji.make("LevelBasedForaging-v0", generator=generator), batch)

    return rollouts


def _foraging(size: int, agents: int, food: int) -> Any:
    # Jumanji's time limit is 100; its start states differ a little (agents never start in some rows), and cost what they cost.
    fields = {"variant": "jumanji", "force_coop": True, "horizon": 100}
    return make("foraging", size=size, agents=agents, food=food, **fields)


_SOCIALJAX = "SocialJax (git 9df972d) on 2 cores of an AMD EPYC (Zen 3), JAX 0.10.2, batches of 64 and 1,024"

CONTESTS = (
    Contest(
        name="foraging-8x8-2p-2f",
        peer="jumanji",
        ours=lambda: _foraging(8, 2, 2),
        theirs=_their_foraging(8, 2, 2),
        crowd=lambda agents: _foraging(20, agents, 4),
    ),
    Contest(
        name="foraging-15x15-4p-5f",
        peer="jumanji",
        ours=lambda: _foraging(15, 4, 5),
        theirs=_their_foraging(15, 4, 5),
    ),
    Contest(
        name="spread",
        peer="jaxmarl",
        ours=lambda: make("spread", rules="jaxmarl"),
        theirs=_jaxmarl("MPE_simple_spread_v3"),
        crowd=lambda agents: make("spread", rules="jaxmarl", agents=agents, landmarks=3),
    ),
    Contest(
        name="tag",
        peer="jaxmarl",
        ours=lambda: make("tag", rules="jaxmarl"),
        theirs=_jaxmarl("MPE_simple_tag_v3"),
        crowd=lambda agents: make("tag", rules="jaxmarl", predators=agents - 1),
    ),
    Contest(
        name="coin_game",
        peer="jaxmarl",
        ours=lambda: make("coin_game"),
        # One inner episode of 100 steps: JaxMARL's default of ten times ten steps draws positions ten times as often.
        theirs=_jaxmarl("coin_game", num_inner_steps=100, num_outer_steps=1),
    ),
    Contest(
        name="cleanup",
        peer="socialjax",
        ours=lambda: make("cleanup_socialjax_like"),
        theirs=Figure(1_000, 1_000, _SOCIALJAX),
    ),
    Contest(
        name="commons_harvest",
        peer="socialjax",
        ours=lambda: make("commons_harvest_socialjax_like"),
        theirs=Figure(900, 1_500, _SOCIALJAX),
    ),
    Contest(
        name="in_the_matrix",
        peer="socialjax",
        ours=lambda: make("prisoners_dilemma_in_the_matrix_socialjax"),
        theirs=Figure(4_000, 5_500, _SOCIALJAX),
        crowd=lambda agents: make("in_the_matrix", players=agents),
    ),
)
"""In the order in which they run."""
