"""Does `ippo` learn as much as the peer's loop in the same number of steps? JaxMARL's spread and tag, its published settings.

    python -m marl_bench.experiments.peer_returns spread --steps 512000 --seeds 5 --out docs/results/peer_returns_spread.json

The peer is `peer_ppo` on JaxMARL's own environment, ours is `ippo` on our world with JaxMARL's rules, with the same network, batch and
hyperparameters. In tag the predators learn and the prey flees by the same rule on both sides, because returns of two populations that
learn against each other cannot be compared. All seeds of a side train in one program. Judged are the sampled actions of the last
policy, in fresh episodes of 26 steps of each side's own environment.

Two differences are left: ours bootstraps through the time limit, which the peer takes for the game's end, and draws minibatches of whole
steps with all their agents. The side `ours_ending` takes the first away: ours in a world whose time limit is an end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import evaluation, registry
from marl_bench.environment import Environment, TimeStep
from marl_bench.experiments.papers.reporting import processor
from marl_bench.experiments.peer_ppo import PeerWorld, Settings, _actor_critic, jaxmarl_hunt, jaxmarl_world, peer_ippo
from marl_bench.report.statistics import bootstrap_interval, difference_interval
from marl_bench.runtime.files import write_atomic
from marl_bench.wrappers import Wrapper

HORIZON = 26
"""Steps of an episode of JaxMARL's particle worlds."""

EPISODES = 256


class Contest(NamedTuple):
    """The same game on both sides.

    Attributes:
      ours: name and fields of our world.
      theirs: number of environments -> the peer's.
    """

    ours: tuple[str, dict[str, Any]]
    theirs: Callable[[int], PeerWorld]


CONTESTS = {
    "spread": Contest(("spread", {"rules": "jaxmarl"}), lambda count: jaxmarl_world("MPE_simple_spread_v3", count)),
    "tag": Contest(("tag", {"rules": "jaxmarl", "prey": "flee"}), jaxmarl_hunt),
}


@struct.dataclass
class LimitIsEnd(Wrapper):
    """The world, but a truncated episode has discount 0 at its end, as if the game were over."""

    def step(self, state: Any, actions: jax.Array) -> tuple[Any, TimeStep]:
        """Advance the wrapped environment; at LAST the discount is 0."""
        state, timestep = self.environment.step(state, actions)
        return state, timestep.replace(discount=jnp.where(timestep.last(), 0.0, timestep.discount))  # pyright: ignore[reportAttributeAccessIssue]


def ours(env: Environment, updates: int, settings: Settings) -> Callable[[jax.Array], jax.Array]:
    """key -> [] return of an agent after `updates` of `ippo`."""
    shared = {"num_envs": settings.num_envs, "num_steps": settings.num_steps, "learning_rate": settings.learning_rate}
    learner = registry.make_learner("ippo", **shared, hidden_sizes=(settings.hidden, settings.hidden))
    learner.validate(env)

    def run(key: jax.Array) -> jax.Array:
        state = learner.init(key, env)
        state = jax.lax.fori_loop(0, updates, lambda _, state: learner.update(state, env)[0], state)
        played = evaluation.play(env, learner, state.params, jax.random.fold_in(key, 1), EPISODES, greedy=False)
        return jnp.mean(played.returns)

    return run


def theirs(world: Callable[[int], PeerWorld], updates: int, settings: Settings) -> Callable[[jax.Array], jax.Array]:
    """key -> [] return of an agent after `updates` of the peer's loop."""
    start, update = peer_ippo(world(settings.num_envs), settings)
    judge = world(EPISODES)
    network = _actor_critic(judge.num_actions, settings.hidden)

    def run(key: jax.Array) -> jax.Array:
        params = jax.lax.fori_loop(0, updates, lambda _, carry: update(carry), start(key))[0]
        key_reset, key_play = jax.random.split(jax.random.fold_in(key, 1))
        state, view, mask = judge.reset(key_reset)

        def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            state, view, mask = carry
            key_action, key_step = jax.random.split(key)
            actions = jax.random.categorical(key_action, network.apply(params, view, mask)[0])
            state, view, mask, reward, _ = judge.step(key_step, state, actions)
            return (state, view, mask), reward

        rewards = jax.lax.scan(step, (state, view, mask), jax.random.split(key_play, HORIZON))[1]
        return jnp.mean(jnp.sum(rewards, axis=0))

    return run


def compare(name: str, steps: int, seeds: int) -> dict[str, Any]:
    """Train all sides of a contest; returns of every seed, means and differences with 95% bootstrap intervals.

    Args:
      name: of `CONTESTS`. steps: environment steps of a seed. seeds: number of seeds, from 0.
    """
    settings, contest = Settings(), CONTESTS[name]
    updates = max(1, round(steps / (settings.num_envs * settings.num_steps)))
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    env = registry.make(contest.ours[0], **contest.ours[1])
    sides = {
        "ours": ours(env, updates, settings),
        "ours_ending": ours(LimitIsEnd(env), updates, settings),
        "peer": theirs(contest.theirs, updates, settings),
    }
    found: dict[str, Any] = {"world": name, "steps": updates * settings.num_envs * settings.num_steps}
    samples = {}
    for side, run in sides.items():
        began, cpu = time.perf_counter(), time.process_time()
        samples[side] = np.asarray(jax.jit(jax.vmap(run))(keys), np.float64)
        found[side] = {
            "returns": [round(float(value), 3) for value in samples[side]],
            "mean": _rounded(bootstrap_interval(samples[side])),
            "seconds": round(time.perf_counter() - began, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }
    for side in ("ours", "ours_ending"):
        found[f"{side}_minus_peer"] = _rounded(difference_interval(samples[side], samples["peer"]))
    return {**found, "device": processor(), "jax": jax.__version__}


def _rounded(interval: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in interval[:3]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=sorted(CONTESTS))
    parser.add_argument("--steps", type=int, default=512_000, help="environment steps of a seed")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--out", type=Path, help="file of the figures")
    parsed = parser.parse_args(arguments)
    found = compare(parsed.world, parsed.steps, parsed.seeds)
    command = (
        f"python -m marl_bench.experiments.peer_returns {parsed.world} --steps {parsed.steps} --seeds {parsed.seeds}"
    )
    text = json.dumps({"command": command, **found}, indent=1)
    print(text)
    if parsed.out is not None:
        write_atomic(parsed.out, text.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
