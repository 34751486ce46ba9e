"""Evolution on graphs without learning: payoffs on a graph and four rules of imitation, as baselines and oracles.

Strategies are 0 (C) and 1 (D); a graph is a padded table, see `marl_bench.envs.graph_families`. All rules are synchronous but
death-birth. Sources: Nowak & May 1992 (imitate the best); Szabó & Tőke 1998 (Fermi); Helbing 1992 and Santos & Pacheco 2005
(proportional imitation); Ohtsuki et al. 2006 (death-birth: cooperation is favoured iff b/c > k).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def graph_payoffs(
    strategies: Any, neighbours: Any, present: Any, matrix: Any, self_interaction: bool = False, mean: bool = False
) -> jax.Array:
    """Payoff of every node against its neighbours.

    Args:
      strategies: [N] integers 0 or 1. neighbours: [N, k] int32. present: [N, k] bool.
      matrix: [2, 2] own payoff, own strategy first: [[R, S], [T, P]].
      self_interaction: whether a node also plays against itself.
      mean: divide by the number of games played; a node without any gets 0.
    Returns:
      payoffs: [N] float32.
    """
    own = jnp.asarray(strategies, jnp.int32)
    table, present = jnp.asarray(matrix, jnp.float32), jnp.asarray(present)
    other = own[jnp.asarray(neighbours)]
    # Counting opponents keeps equal situations equal to the last bit, so that ties are ties.
    defectors = jnp.sum(present & (other == 1), axis=1)
    cooperators = jnp.sum(present, axis=1) - defectors
    if self_interaction:
        defectors, cooperators = defectors + own, cooperators + 1 - own
    row = table[own]
    total = cooperators * row[:, 0] + defectors * row[:, 1]
    return total / jnp.maximum(cooperators + defectors, 1) if mean else total


def imitate_best(strategies: Any, payoffs: Any, neighbours: Any, present: Any) -> jax.Array:
    """[N] next strategies: that of the neighbour with the highest payoff if it exceeds the own one, else the own.

    Args:
      strategies: [N]. payoffs: [N]. neighbours: [N, k]. present: [N, k] bool. Of equal neighbours the first slot counts.
    """
    strategies, payoffs, neighbours = jnp.asarray(strategies), jnp.asarray(payoffs), jnp.asarray(neighbours)
    seen = jnp.where(jnp.asarray(present), payoffs[neighbours], -jnp.inf)
    best = jnp.argmax(seen, axis=1)[:, None]
    model = jnp.take_along_axis(neighbours, best, axis=1)[:, 0]
    return jnp.where(jnp.max(seen, axis=1) > payoffs, strategies[model], strategies)


def _random_neighbour(key: jax.Array, neighbours: Any, present: Any) -> jax.Array:
    """[N] a uniform neighbour of each node; the node itself if it has none."""
    count = jnp.sum(jnp.asarray(present), axis=1)
    slot = jnp.floor(jax.random.uniform(key, count.shape) * count).astype(jnp.int32)
    return jnp.take_along_axis(jnp.asarray(neighbours), slot[:, None], axis=1)[:, 0]


def fermi(key: jax.Array, strategies: Any, payoffs: Any, neighbours: Any, present: Any, noise: Any) -> jax.Array:
    """[N] next strategies: a random neighbour j is copied with probability 1 / (1 + exp((pi_i - pi_j) / noise)).

    Args:
      key: [] PRNG key. strategies: [N]. payoffs: [N]. neighbours: [N, k]. present: [N, k] bool. noise: [] kappa > 0.
    """
    key_model, key_copy = jax.random.split(key)
    strategies, payoffs = jnp.asarray(strategies), jnp.asarray(payoffs)
    model = _random_neighbour(key_model, neighbours, present)
    copies = jax.random.bernoulli(key_copy, jax.nn.sigmoid((payoffs[model] - payoffs) / noise))
    return jnp.where(copies, strategies[model], strategies)


def proportional_imitation(
    key: jax.Array, strategies: Any, payoffs: Any, neighbours: Any, present: Any, largest_gap: Any
) -> jax.Array:
    """[N] next strategies: a random neighbour j is copied with probability max(0, pi_j - pi_i) / largest_gap.

    Args:
      key: [] PRNG key. strategies: [N]. payoffs: [N]. neighbours: [N, k]. present: [N, k] bool.
      largest_gap: [] or [N] largest possible difference of payoffs, > 0.
    """
    key_model, key_copy = jax.random.split(key)
    strategies, payoffs = jnp.asarray(strategies), jnp.asarray(payoffs)
    model = _random_neighbour(key_model, neighbours, present)
    copies = jax.random.bernoulli(key_copy, jnp.clip((payoffs[model] - payoffs) / largest_gap, 0.0, 1.0))
    return jnp.where(copies, strategies[model], strategies)


def death_birth(
    key: jax.Array, strategies: Any, payoffs: Any, neighbours: Any, present: Any, selection: Any
) -> jax.Array:
    """[N] strategies after one node has died and a neighbour, drawn by fitness 1 - w + w pi, has taken its place.

    Args:
      key: [] PRNG key. strategies: [N]. payoffs: [N]. neighbours: [N, k]. present: [N, k] bool.
      selection: [] w in [0, 1], small enough that fitness stays positive.
    """
    key_node, key_parent = jax.random.split(key)
    strategies, payoffs = jnp.asarray(strategies), jnp.asarray(payoffs)
    node = jax.random.randint(key_node, (), 0, strategies.shape[0])
    around, there = jnp.asarray(neighbours)[node], jnp.asarray(present)[node]
    fitness = jnp.where(there, 1 - selection + selection * payoffs[around], 0.0)
    parent = jax.random.categorical(key_parent, jnp.log(fitness))
    return strategies.at[node].set(jnp.where(there.any(), strategies[around[parent]], strategies[node]))
