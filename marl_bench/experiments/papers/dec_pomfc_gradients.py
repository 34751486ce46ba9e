"""E10 of the study `dec_pomfc`: how the signal-to-noise ratio of a policy gradient changes with the number of agents.

The parameters are those of the first update and the same for all numbers of agents; each estimate is the gradient of PPO's loss for one batch
of fresh episodes. With K independent estimates g_k of mean m and total variance v, |m|^2 / v is estimated without bias by
(|mean g|^2 - v / K) / v. `dec_pomfc` has one score for a step of the swarm, `ippo` one for each agent.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from marl_bench.algorithms import rollout
from marl_bench.algorithms.mean_field.dec_pomfc import DecPOMFC
from marl_bench.algorithms.ppo import PPO
from marl_bench.environment import Environment
from marl_bench.experiments.papers import dec_pomfc_grid as grid
from marl_bench.registry import make, make_learner

SIZES = {"smoke": (5, 25), "reduced": (5, 25, 100), "paper": (5, 25, 100, 300, 1000)}
_ESTIMATES = {"smoke": 4, "reduced": 24, "paper": 64}
_SEEDS = {"smoke": 2, "reduced": 5, "paper": 5}
_COPIES = 8
LEARNERS = ("dec_pomfc", "ippo")


def signal_to_noise(learner: PPO, env: Environment, seeds: int, estimates: int) -> np.ndarray:
    """[S] |mean|^2 over total variance of the actor's gradient at the start of training, for seeds 0 ... S - 1.

    Args:
      learner: `dec_pomfc`, or any other learner of that family. env: the world.
      seeds: S, of the parameters. estimates: K.
    """

    def gradient(params: Any, state: Any, key: jax.Array) -> jax.Array:
        key_start, key_play = jax.random.split(key)
        source = learner.mdp(params, env) if isinstance(learner, DecPOMFC) else env
        memory = learner.initial_memory(source.num_agents)
        world = rollout.start(learner.vector(source, learner.reads_state), memory, key_start)
        state = dataclasses.replace(state, params=params, world=world)
        _, steps, _ = learner.collect(state, source, key_play)
        _, value, advantage, target = learner.advantages_of(state, source, steps)
        batch = learner.rows(state, steps, value, advantage, target)
        networks = {name: params[name] for name in ("actor", "critic")}
        found = jax.grad(lambda networks: learner.loss(networks, source, batch)[0])(networks)["actor"]
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(found)])

    def ratio(key: jax.Array) -> jax.Array:
        state = learner.init(key, env)
        keys = jax.random.split(jax.random.fold_in(key, 1), estimates)
        drawn = jax.lax.map(lambda key: gradient(state.params, state, key), keys)
        noise = jnp.sum(jnp.var(drawn, axis=0, ddof=1))
        return (jnp.sum(jnp.square(jnp.mean(drawn, axis=0))) - noise / estimates) / noise

    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    return np.asarray(jax.jit(lambda keys: jax.lax.map(ratio, keys))(keys))


def measure(folder: Path, scale: str) -> pd.DataFrame:
    """Columns learner, agents, seed, value, in vicsek; kept as `folder`/gradients.csv and read from there if it exists."""
    path = folder / "gradients.csv"
    if path.exists():
        return pd.read_csv(path)
    rows = []
    for name in LEARNERS:
        learner = make_learner(
            name, **{**grid.settings(name), "num_envs": _COPIES, "minibatches": 1, "normalize_values": False}
        )
        for agents in SIZES[scale]:
            env = make("vicsek", agents=agents)
            found = signal_to_noise(learner, env, _SEEDS[scale], _ESTIMATES[scale])
            rows += [
                {"learner": name, "agents": agents, "seed": seed, "value": float(value)}
                for seed, value in enumerate(found)
            ]
            print(f"gradients: {name}, {agents} agents: {found.mean():.4g}", flush=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(path, index=False, float_format="%.6g")
    return frame
