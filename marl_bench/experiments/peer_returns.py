"""Does `ippo` learn as much as the peer's loop in the same number of steps? JaxMARL's spread, both from its published settings.

    python -m marl_bench.experiments.peer_returns --steps 512000 --seeds 5 --out docs/results/peer_returns.json

The peer is `peer_ppo` on JaxMARL's own environment, ours is `ippo` on `spread` with JaxMARL's rules, with the same network, batch and
hyperparameters. All seeds of a side train in one program. Judged are the sampled actions of the last policy, in fresh episodes of
26 steps of each side's own environment. The differences that are left: ours bootstraps through the time limit, and draws
minibatches of whole steps with all their agents.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench import evaluation, registry
from marl_bench.experiments.peer_ppo import Settings, _actor_critic, jaxmarl_world, peer_ippo
from marl_bench.report.statistics import bootstrap_interval, difference_interval
from marl_bench.runtime.files import write_atomic

HORIZON = 26
"""Steps of an episode of JaxMARL's particle worlds."""

EPISODES = 256


def ours(updates: int, settings: Settings) -> Callable[[jax.Array], jax.Array]:
    """key -> [] return of an agent after `updates` of `ippo`."""
    env = registry.make("spread", rules="jaxmarl")
    shared = {"num_envs": settings.num_envs, "num_steps": settings.num_steps, "learning_rate": settings.learning_rate}
    learner = registry.make_learner("ippo", **shared, hidden_sizes=(settings.hidden, settings.hidden))
    learner.validate(env)

    def run(key: jax.Array) -> jax.Array:
        state = learner.init(key, env)
        state = jax.lax.fori_loop(0, updates, lambda _, state: learner.update(state, env)[0], state)
        played = evaluation.play(env, learner, state.params, jax.random.fold_in(key, 1), EPISODES, greedy=False)
        return jnp.mean(played.returns)

    return run


def theirs(updates: int, settings: Settings) -> Callable[[jax.Array], jax.Array]:
    """key -> [] return of an agent after `updates` of the peer's loop."""
    start, update = peer_ippo(jaxmarl_world("MPE_simple_spread_v3", settings.num_envs), settings)
    judge = jaxmarl_world("MPE_simple_spread_v3", EPISODES)
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


def compare(steps: int, seeds: int) -> dict[str, Any]:
    """Train both sides; returns of every seed, means and their difference with 95% bootstrap intervals."""
    settings = Settings()
    updates = max(1, round(steps / (settings.num_envs * settings.num_steps)))
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    found: dict[str, Any] = {
        "world": "spread, JaxMARL's rules",
        "steps": updates * settings.num_envs * settings.num_steps,
    }
    samples = {}
    for name, side in (("ours", ours), ("peer", theirs)):
        began = time.process_time()
        samples[name] = np.asarray(jax.jit(jax.vmap(side(updates, settings)))(keys), np.float64)
        interval = bootstrap_interval(samples[name])
        found[name] = {
            "returns": [round(float(value), 3) for value in samples[name]],
            "mean": [round(value, 3) for value in interval[:3]],
            "cpu_seconds": round(time.process_time() - began, 1),
        }
    difference = difference_interval(samples["ours"], samples["peer"])
    return {**found, "ours_minus_peer": [round(value, 3) for value in difference[:3]], "jax": jax.__version__}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=512_000, help="environment steps of a seed")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--out", type=Path, help="file of the figures")
    parsed = parser.parse_args(arguments)
    found = compare(parsed.steps, parsed.seeds)
    text = json.dumps(
        {
            "command": f"python -m marl_bench.experiments.peer_returns --steps {parsed.steps} --seeds {parsed.seeds}",
            **found,
        },
        indent=1,
    )
    print(text)
    if parsed.out is not None:
        write_atomic(parsed.out, text.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
