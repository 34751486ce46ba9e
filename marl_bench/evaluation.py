"""One evaluator for every policy: fresh episodes, played side by side in chunks, each to its own end.

Knows the two protocols only. Whether play was greedy stands in the result beside the score.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.environment import Environment

CHUNK = 256
"""Episodes played at once: bounds the memory of an evaluation."""

LONGEST = 10_000
"""Steps after which an episode of a world without an end is cut."""


@struct.dataclass
class Episodes:
    """Outcome of E episodes.

    Attributes:
      returns: [E, N] float32, undiscounted sum of each agent's rewards.
      length: [E] int32 steps.
      metrics: name -> [E] float32, mean over the steps of the episode; and `final_` + name, its value at the last step.
      greedy: [] float32, 1 if the most likely actions were played.
    """

    returns: jax.Array
    length: jax.Array
    metrics: dict[str, jax.Array]
    greedy: jax.Array


def play(
    env: Environment, learner: Any, params: Any, key: jax.Array, episodes: int, greedy: bool, longest: int = LONGEST
) -> Episodes:
    """Play `episodes` whole episodes.

    Args:
      env: the world.
      learner: whose `act` and `initial_memory` are used. params: what `act` takes.
      key: [] typed PRNG key.
      episodes: E.
      greedy: handed to `act`.
      longest: steps after which an episode is cut.
    """
    memory = learner.initial_memory(env.num_agents)

    def chosen(memory: Any, observation: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        return learner.act(params, memory, observation, key, greedy)

    def chunk(keys: jax.Array) -> Episodes:
        return _play_chunk(env, chosen, memory, keys, longest)

    keys = jax.random.split(key, episodes)
    if episodes <= CHUNK:
        played = chunk(keys)
    else:
        chunks = -(-episodes // CHUNK)
        keys = jax.random.split(key, chunks * CHUNK).reshape(chunks, CHUNK)
        played = jax.lax.map(chunk, keys)
        played = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:episodes], played)
    return played.replace(greedy=jnp.float32(greedy))  # pyright: ignore[reportAttributeAccessIssue]


def _play_chunk(env: Environment, act: Any, memory: Any, keys: jax.Array, longest: int) -> Episodes:
    """All episodes of a chunk until the last has ended; what happens after an episode's end is not counted."""
    count = keys.shape[0]
    state, timestep = jax.vmap(env.reset)(keys)
    memory = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), memory)
    zeros = {name: jnp.zeros(count) for name in timestep.extras["metrics"]}
    nothing = (jnp.zeros_like(timestep.reward), jnp.zeros(count, jnp.int32), zeros, zeros)

    def going(carry: Any) -> jax.Array:
        return (carry[0] < longest) & jnp.any(carry[1])

    def step(carry: Any) -> Any:
        time, alive, state, observation, memory, (returns, length, total, last) = carry
        keys_step = jax.vmap(jax.random.fold_in, (0, None))(keys, time)
        actions, memory = jax.vmap(act)(memory, observation, keys_step)
        state, timestep = jax.vmap(env.step)(state, actions)
        metrics = timestep.extras["metrics"]
        returns = returns + jnp.where(alive[:, None], timestep.reward, 0.0)
        total = {name: total[name] + jnp.where(alive, metrics[name], 0.0) for name in total}
        last = {name: jnp.where(alive, metrics[name], last[name]) for name in last}
        counted = (returns, length + alive, total, last)
        return time + 1, alive & ~timestep.last(), state, timestep.observation, memory, counted

    alive = jnp.ones(count, bool)
    carry = (jnp.int32(0), alive, state, timestep.observation, memory, nothing)
    _, _, _, _, _, (returns, length, total, last) = jax.lax.while_loop(going, step, carry)
    metrics = {name: value / jnp.maximum(length, 1) for name, value in total.items()}
    metrics |= {f"final_{name}": value for name, value in last.items()}
    return Episodes(returns, length, metrics, jnp.float32(0))


def summary(episodes: Episodes) -> dict[str, jax.Array]:
    """Scalars of a results table.

    Returns:
      `return_mean_per_agent`, `return_sum` (over agents), `return_std` (of the sum, over episodes), `return_min_agent`,
      `return_max_agent` (means of the worst and best agent), `length`, `episodes`, `greedy`, and the mean of every metric.
    """
    team, by_agent = jnp.sum(episodes.returns, axis=1), jnp.mean(episodes.returns, axis=0)
    return {
        "return_mean_per_agent": jnp.mean(by_agent),
        "return_sum": jnp.mean(team),
        "return_std": jnp.std(team),
        "return_min_agent": jnp.min(by_agent),
        "return_max_agent": jnp.max(by_agent),
        "length": jnp.mean(episodes.length.astype(jnp.float32)),
        "episodes": jnp.float32(episodes.length.shape[0]),
        "greedy": episodes.greedy,
        **{name: jnp.mean(value) for name, value in episodes.metrics.items()},
    }
