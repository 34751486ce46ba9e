"""Play every composition of a population of cooperators and defectors.

The data of a Schelling diagram (Schelling 1973; Hughes et al. 2018, section 2.1): for m = 0 ... N cooperators among
N agents, the returns of cooperators, of defectors and of the group. Who cooperates is drawn anew for every episode, so
that worlds whose agents differ (roles, starting places) are averaged over. `marl_bench.report.schelling` judges the data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.environment import Environment, ScriptedPolicy


class Compositions(NamedTuple):
    """Returns of E episodes of each composition; row m has m cooperators.

    Attributes:
      cooperators: [N + 1, E] float64, mean return of the cooperators; NaN in row 0.
      defectors: [N + 1, E] float64, mean return of the defectors; NaN in row N.
      group: [N + 1, E] float64, return of all agents together.
      lengths: [N + 1, E] int, steps of each episode.
    """

    cooperators: np.ndarray
    defectors: np.ndarray
    group: np.ndarray
    lengths: np.ndarray


def play_compositions(
    env: Environment,
    cooperate: ScriptedPolicy,
    defect: ScriptedPolicy,
    key: jax.Array,
    *,
    episodes: int = 64,
    steps: int | None = None,
    batch: int = 1024,
) -> Compositions:
    """Play `episodes` episodes of each of the N + 1 compositions, all in one compiled program.

    Args:
      env: environment without auto-reset. Its rewards are taken as they are: wrap it to judge others.
      cooperate: policy of a cooperator, `(state, observation, key) -> actions` of all agents.
      defect: policy of a defector.
      key: [] typed PRNG key.
      episodes: E, at least 1.
      steps: longest episode; None for the environment's own horizon.
      batch: episodes stepped at once (memory).
    Returns:
      `Compositions`.
    Raises:
      ValueError: for a non-positive number, or without `steps` where episodes have no fixed horizon.
    """
    steps = env.fixed_horizon if steps is None else steps
    if steps is None:
        raise ValueError(f"steps=None: {type(env.unwrapped).__name__} has no fixed horizon, so say how long to play")
    for name, value in (("episodes", episodes), ("steps", steps), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    sizes = np.repeat(np.arange(env.num_agents + 1, dtype=np.int32), episodes)

    def play(case: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        return _episode(env, (cooperate, defect), *case, steps)

    @jax.jit
    def run(key: jax.Array, sizes: jax.Array) -> Any:
        return jax.lax.map(play, (jax.random.split(key, len(sizes)), sizes), batch_size=min(batch, len(sizes)))

    returns, mask, lengths = jax.device_get(run(key, sizes))
    returns = np.asarray(returns, np.float64).reshape(env.num_agents + 1, episodes, env.num_agents)
    mask = mask.reshape(returns.shape)
    return Compositions(
        cooperators=_mean(returns, mask),
        defectors=_mean(returns, ~mask),
        group=returns.sum(axis=-1),
        lengths=lengths.reshape(returns.shape[:2]),
    )


def _mean(returns: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over the agents that `mask` selects; NaN where it selects none."""
    count = mask.sum(axis=-1)
    total = np.where(mask, returns, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _episode(
    env: Environment, policies: tuple[ScriptedPolicy, ScriptedPolicy], key: jax.Array, size: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One episode with `size` cooperators: returns [N], who cooperated [N] bool, and its length."""
    key_roles, key_start, key_play = jax.random.split(key, 3)
    mask = jax.random.permutation(key_roles, env.num_agents) < size
    state, timestep = env.reset(key_start)

    def advance(carry: Any, count: jax.Array) -> tuple[Any, None]:
        state, observation, returns, length, over = carry
        keys = jax.random.split(jax.random.fold_in(key_play, count))
        own, other = (policy(state, observation, k) for policy, k in zip(policies, keys, strict=True))
        actions = jnp.where(mask.reshape(-1, *(1,) * (own.ndim - 1)), own, other)
        state, timestep = env.step(state, actions)
        returns = returns + jnp.where(over, 0.0, timestep.reward)
        following = (state, timestep.observation, returns, length + ~over, over | timestep.last())
        return following, None

    start = (state, timestep.observation, jnp.zeros(env.num_agents), jnp.int32(0), jnp.asarray(False))
    (_, _, returns, length, _), _ = jax.lax.scan(advance, start, jnp.arange(steps))
    return returns, mask, length
