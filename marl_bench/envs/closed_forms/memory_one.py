"""Memory-one strategies of repeated two-action games: eight well-known ones, and their exact payoffs against each other.

p = (p_CC, p_CD, p_DC, p_DD) is the probability of action 0 (C) after each joint action, seen from the own side (own action
first). Sources: Nowak & Sigmund 1993 (win-stay lose-shift, generous tit for tat); Press & Dyson 2012 (determinants, zero-
determinant strategies, the extortioner EXT3).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class MemoryOne(NamedTuple):
    """A strategy that looks one joint action back: `MemoryOne(after, first)` makes one from its probabilities.

    Attributes:
      after: [4] probability of action 0 after CC, CD, DC, DD as (own, other).
      first: [] probability of action 0 in the first step.
    """

    after: Any
    first: Any = 1.0

    def act(self, observation: jax.Array, key: jax.Array, noise: Any = 0.0) -> jax.Array:
        """Draw actions from `MatrixGame`'s memory-one view.

        Args:
          observation: [..., 5] one-hot (start, CC, CD, DC, DD).
          key: [] typed PRNG key.
          noise: [] probability that the prescribed action flips.
        Returns:
          actions: [...] int32, 0 or 1.
        """
        table = jnp.concatenate([jnp.asarray(self.first, jnp.float32)[None], jnp.asarray(self.after, jnp.float32)])
        return 1 - jax.random.bernoulli(key, _trembling(observation @ table, noise)).astype(jnp.int32)


MEMORY_ONE: Mapping[str, MemoryOne] = MappingProxyType(
    {
        "ALLC": MemoryOne((1.0, 1.0, 1.0, 1.0)),
        "ALLD": MemoryOne((0.0, 0.0, 0.0, 0.0), 0.0),
        "TFT": MemoryOne((1.0, 0.0, 1.0, 0.0)),
        "WSLS": MemoryOne((1.0, 0.0, 0.0, 1.0)),
        "GRIM": MemoryOne((1.0, 0.0, 0.0, 0.0)),
        "GTFT": MemoryOne((1.0, 1 / 3, 1.0, 1 / 3)),
        "RAND": MemoryOne((0.5, 0.5, 0.5, 0.5), 0.5),
        "EXT3": MemoryOne((11 / 13, 1 / 2, 7 / 26, 0.0)),
    }
)
"""Always cooperate, always defect, tit for tat, win-stay lose-shift, grim trigger, generous tit for tat, random, and
the zero-determinant strategy that extorts a factor of 3 in Axelrod's prisoner's dilemma."""


def _trembling(probability: Any, noise: Any) -> Any:
    return probability * (1 - noise) + (1 - probability) * noise


def memory_one_transitions(p: Any, q: Any) -> jax.Array:
    """Markov matrix of the joint outcome when two memory-one strategies meet.

    Args:
      p: [4] agent 0's probabilities of action 0 after CC, CD, DC, DD from its own side.
      q: [4] the same for agent 1, from agent 1's own side.
    Returns:
      matrix: [4, 4] float32, row = outcome before, column = outcome after, both as agent 0 sees them.
    """
    p = jnp.asarray(p, jnp.float32)
    q = jnp.asarray(q, jnp.float32).reshape(2, 2).T.reshape(4)
    return jnp.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)], axis=-1)


def memory_one_payoffs(
    p: Any, q: Any, payoff: Any, discount: Any = None, p0: Any = 1.0, q0: Any = 1.0, noise: Any = 0.0
) -> jax.Array:
    """Mean payoff per step of two memory-one strategies, by one linear solve (works under jit and vmap).

    Discounted: (1 - g) u'(I - gM)^-1 f, with u the distribution of the first outcome. Stationary (`discount` None): the
    left eigenvector of M; it is unique only with one recurrent class, which any `noise` in (0, 1) guarantees.

    Args:
      p: [4] agent 0's probabilities of action 0 after CC, CD, DC, DD from its own side.
      q: [4] agent 1's, from agent 1's own side.
      payoff: [2, 2, 2].
      discount: [] g in [0, 1), or None for the stationary mean. Divide by 1 - g for the discounted sum.
      p0: [] agent 0's first move (probability of action 0); read only with a discount. q0: agent 1's.
      noise: [] probability that a prescribed action flips, also in the first step.
    Returns:
      payoffs: [2] float32, of agent 0 and agent 1. Not finite where the stationary mean is not unique.
    """
    p, q = (_trembling(jnp.asarray(value, jnp.float32), noise) for value in (p, q))
    matrix = memory_one_transitions(p, q)
    outcome_payoffs = jnp.asarray(payoff, jnp.float32).reshape(2, 4)
    identity = jnp.eye(4, dtype=jnp.float32)
    if discount is None:
        system = (identity - matrix).T.at[-1].set(1.0)
        return outcome_payoffs @ jnp.linalg.solve(system, identity[-1])
    p0, q0 = _trembling(jnp.asarray(p0, jnp.float32), noise), _trembling(jnp.asarray(q0, jnp.float32), noise)
    first = jnp.stack([p0 * q0, p0 * (1 - q0), (1 - p0) * q0, (1 - p0) * (1 - q0)])
    visits = jnp.linalg.solve((identity - discount * matrix).T, first)
    return (1 - discount) * (outcome_payoffs @ visits)


def press_dyson(p: Any, q: Any, values: Any) -> jax.Array:
    """Determinant D(p, q, f) of Press & Dyson 2012; stationary means are s = D(p, q, f) / D(p, q, 1).

    Args:
      p: [4] agent 0's probabilities of action 0 after CC, CD, DC, DD from its own side.
      q: [4] agent 1's, from agent 1's own side.
      values: [4] f after CC, CD, DC, DD as agent 0 sees them.
    Returns:
      determinant: [] float32.
    """
    p, values = jnp.asarray(p, jnp.float32), jnp.asarray(values, jnp.float32)
    q = jnp.asarray(q, jnp.float32).reshape(2, 2).T.reshape(4)
    both = p * q - jnp.array([1.0, 0.0, 0.0, 0.0])
    own = p - jnp.array([1.0, 1.0, 0.0, 0.0])
    other = q - jnp.array([1.0, 0.0, 1.0, 0.0])
    return jnp.linalg.det(jnp.stack([both, own, other, values], axis=1))


def press_dyson_payoffs(p: Any, q: Any, payoff: Any) -> jax.Array:
    """[2] float32 stationary payoffs by determinants; equal to `memory_one_payoffs` where the stationary law is unique."""
    outcome_payoffs = jnp.asarray(payoff, jnp.float32).reshape(2, 4)
    total = press_dyson(p, q, jnp.ones(4))
    return jnp.stack([press_dyson(p, q, values) for values in outcome_payoffs]) / total


def extortion(payoff: Any, factor: Any, scale: Any) -> jax.Array:
    """Zero-determinant strategy that enforces (own - P) = factor * (other's - P) against every opponent.

    p~ = scale * [(S_X - P) - factor * (S_Y - P)] with p~ = (p_CC - 1, p_CD - 1, p_DC, p_DD).

    Args:
      payoff: [2, 2, 2] of a symmetric game. factor: [] >= 1. scale: [] > 0, small enough that all four are
        probabilities: the result is not clipped.
    Returns:
      p: [4] float32. EXT3 is factor 3 and scale 1/26 with Axelrod's payoffs.
    """
    own, other = jnp.asarray(payoff, jnp.float32).reshape(2, 4)
    return scale * ((own - own[3]) - factor * (other - own[3])) + jnp.array([1.0, 1.0, 0.0, 0.0])
