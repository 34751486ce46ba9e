"""The part of the study `dec_pomfc` that only evaluates: protocols, numbers of agents and starts that were not trained with.

All seeds of a run are played at once, with the same evaluation keys for every method. The result is one table of returns with a row for
each seed, kept as `evaluations.csv` so that reports can be written again without playing again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from marl_bench.algorithms.mean_field import execution
from marl_bench.environment import Environment, ScriptedPolicy
from marl_bench.experiments.papers import dec_pomfc_grid as grid
from marl_bench.experiments.policy import Policy, load_policy

SIZES = {"smoke": (5, 25), "reduced": (2, 5, 10, 25, 100, 300, 1000), "paper": (2, 5, 10, 25, 50, 100, 250, 500, 1000)}
"""E3: numbers of agents in evaluation."""

TRANSFER_SIZES = (10, 25, 100, 300)
"""E11: the same, for policies trained with other numbers of agents."""

PROTOCOL_SIZES = {"smoke": (25,), "reduced": (10, 100), "paper": (5, 25, 100, 400, 1000)}
"""E5: the same, for every protocol."""

STARTS: dict[str, tuple[dict[str, Any], ...]] = {
    "aggregation": ({"start": "gauss"}, {"start": "two_clusters"}, {"start": "random_gauss"}),
    "vicsek": ({"start": "half"}, {"start": "von_mises"}),
}
"""E6: starts that were not trained with."""

LARGEST = {"smoke": (1_000,), "reduced": (1_000, 30_000, 1_000_000), "paper": (1_000, 30_000, 1_000_000)}
"""Agents of one episode of vicsek in which everybody has about `DEGREE` neighbours, as with 100 agents in training."""

DEGREE = 20
_EPISODES = {"smoke": 16, "reduced": 64, "paper": 300}
_PAIRS_AT_ONCE = 20_000_000


def returns(
    env: Environment, policy_of: Callable[[Any, jax.Array], ScriptedPolicy], params: Any, key: jax.Array, episodes: int
) -> np.ndarray:
    """[S, E] returns of an agent in E whole episodes, for S sets of parameters.

    Args:
      env: a world of a fixed horizon.
      policy_of: (params, key) -> policy; the key is for what the policy computes beforehand.
      params: leaves [S, ...]. key: [] typed PRNG key, the same for all S. episodes: E.
    """
    at_once = max(1, min(episodes, _PAIRS_AT_ONCE // env.num_agents**2))

    def one(params: Any) -> jax.Array:
        policy = policy_of(params, jax.random.fold_in(key, 1))

        def episode(key: jax.Array) -> jax.Array:
            state, timestep = env.reset(jax.random.fold_in(key, 0))

            def step(carry: Any, number: jax.Array) -> tuple[Any, jax.Array]:
                state, observation = carry
                action = policy(state, observation, jax.random.fold_in(key, number))
                state, timestep = env.step(state, action)
                return (state, timestep.observation), jnp.mean(timestep.reward)

            steps = 1 + jnp.arange(env.fixed_horizon or 0)
            return jnp.sum(jax.lax.scan(step, (state, timestep.observation), steps)[1])

        return jax.lax.map(episode, jax.random.split(jax.random.fold_in(key, 0), episodes), batch_size=at_once)

    return np.asarray(jax.jit(lambda params: jax.lax.map(one, params))(params))


def trained(folder: Path, run: str, seeds: int) -> tuple[Policy, Any]:
    """The policy of the first seed of a run, and the parameters of all, leaves [S, ...]."""
    policies = [load_policy(folder / "runs" / run, cell) for cell in range(seeds)]
    return policies[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *(one.params for one in policies))


def evaluate(folder: Path, scale: str) -> pd.DataFrame:
    """Everything that is only evaluated: columns experiment, world, label, trained, agents, seed, value (mean return), error.

    `trained` is the number of agents in training, 0 for scripted policies; `error` the standard error over episodes. Read from
    `folder`/evaluations.csv where that exists.
    """
    path = folder / "evaluations.csv"
    if path.exists():
        return pd.read_csv(path)
    player = _Player(folder, scale)
    for world in grid.WORLDS:
        run = f"{grid.sized(world, grid.SIZE)}+dec_pomfc".replace(" ", "_")
        for agents in sorted({*SIZES[scale], *PROTOCOL_SIZES[scale]}):
            player.scripted(world, agents)
        for agents in SIZES[scale]:
            player.play("sizes", world, run, agents, "CE-mode")
        for agents in PROTOCOL_SIZES[scale]:
            for protocol in execution.PROTOCOLS:
                player.play("protocols", world, run, agents, protocol)
        for start in STARTS.get(world, ()):
            for protocol in ("CE-mode", "OL", "STAT"):
                player.play("starts", world, run, grid.SIZE, protocol, start)
    if scale != "smoke":
        for agents in grid.TRAINED_SIZES:
            run = f"{grid.sized('vicsek', agents)}+dec_pomfc".replace(" ", "_")
            for size in TRANSFER_SIZES:
                player.play("transfer", "vicsek", run, size, "CE-mode")
    for agents in LARGEST[scale]:
        player.largest(agents)
    frame = pd.DataFrame(player.rows)
    frame.to_csv(path, index=False, float_format="%.6g")
    return frame


class _Player:
    """Plays, and collects rows."""

    def __init__(self, folder: Path, scale: str) -> None:
        self.folder, self.episodes = folder, _EPISODES[scale]
        self.seeds = len(grid.entries(scale)[0].config.seeds)
        self.rows: list[dict[str, Any]] = []
        self._runs: dict[str, tuple[Policy, Any]] = {}

    def play(
        self, experiment: str, world: str, run: str, agents: int, protocol: str, start: dict[str, Any] | None = None
    ) -> None:
        """One protocol of the policies of a run, in their world with other fields."""
        if run not in self._runs:
            self._runs[run] = trained(self.folder, run, self.seeds)
        first, params = self._runs[run]
        home: Any = first.environment
        nominal = dataclasses.replace(home, agents=agents)
        env = dataclasses.replace(nominal, **(start or {}))
        learner = getattr(first.learner, "learner", first.learner)
        found = returns(
            env,
            lambda params, key: execution.policy(learner, params, nominal, protocol, key),  # pyright: ignore[reportArgumentType]
            params,
            jax.random.key(agents),
            self.episodes,
        )
        label = protocol if start is None else f"{protocol}, {start['start']}"
        self._add(experiment, world, label, first.environment.num_agents, agents, found)

    def largest(self, agents: int) -> None:
        """One episode of vicsek with a fixed number of neighbours: local order at its end, by `act` of the first seed and uncontrolled."""
        from marl_bench.registry import make

        run = f"{grid.sized('vicsek', grid.SIZE)}+dec_pomfc".replace(" ", "_")
        policy = load_policy(self.folder / "runs" / run)
        radius = math.sqrt(DEGREE / (math.pi * agents))
        env = make("vicsek", agents=agents, radius=radius, cells=int(1 / radius), speed=0.3 * radius)
        rules = {"act": lambda _, observation, key: policy(observation, (), key)[0], **env.scripted_policies()}
        for label in ("act", "straight"):
            rule = rules[label]

            def step(carry: Any, key: jax.Array, rule: Any = rule) -> tuple[Any, jax.Array]:
                state, observation = carry
                state, timestep = env.step(state, rule(state, observation, key))
                return (state, timestep.observation), timestep.extras["metrics"]["local_order"]

            def episode(key: jax.Array, step: Any = step) -> jax.Array:
                state, timestep = env.reset(key)
                keys = jax.random.split(key, env.fixed_horizon)
                return jax.lax.scan(step, (state, timestep.observation), keys)[1]

            order = np.asarray(jax.jit(episode)(jax.random.key(0)))
            self._add("largest", "vicsek", label, grid.SIZE, agents, order[None, -1:])

    def scripted(self, world: str, agents: int) -> None:
        """Every scripted policy."""
        from marl_bench.registry import make

        env = make(world, agents=agents)
        for name, policy in env.scripted_policies().items():
            found = returns(
                env, lambda _, __, policy=policy: policy, jnp.zeros(1), jax.random.key(agents), self.episodes
            )
            self._add("scripted", world, name, 0, agents, found)

    def _add(self, experiment: str, world: str, label: str, size: int, agents: int, found: np.ndarray) -> None:
        for seed, sample in enumerate(found):
            self.rows.append(
                {
                    "experiment": experiment,
                    "world": world,
                    "label": label,
                    "trained": size,
                    "agents": agents,
                    "seed": seed,
                    "value": float(sample.mean()),
                    "error": float(sample.std(ddof=1) / np.sqrt(sample.size)) if sample.size > 1 else math.nan,
                }
            )
        print(f"{experiment}: {world}, {label}, {agents} agents: {found.mean():.2f}", flush=True)
