"""Rules of the common pool on plain arrays: how requests are met, how the stock grows, what is sustainable.

Source: Piatti et al. 2024, *Cooperate or Collapse* (GovSim), and its published simulation code, without the language. Logistic
and Allee growth are the textbook forms (Clark 1990, *Mathematical Bioeconomics*).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ALLOCATIONS = ("proportional_real", "proportional", "stochastic")
GROWTHS = ("doubling", "logistic", "allee")

_STEP = np.float32(2.0**-24)


def uniform(words: jax.Array) -> jax.Array:
    """float32 uniform in [0, 1) from uint32 words [...], on a grid of 2^-24."""
    return (words >> np.uint32(8)).astype(jnp.float32) * _STEP


def share_real(requests: jax.Array, stock: jax.Array) -> jax.Array:
    """[N] catches: everybody's request, scaled down alike if together they exceed the stock."""
    total = jnp.sum(requests)
    return requests * jnp.minimum(1.0, stock / jnp.where(total > 0, total, 1.0))


def share_whole(requests: jax.Array, stock: jax.Array, draws: jax.Array) -> jax.Array:
    """[N] whole catches: the integer part of the proportional share, then single units drawn by what is still wanted.

    Args:
      requests: [N] whole numbers. stock: []; only its whole units are handed out.
      draws: [N] uniform in [0, 1), one for each unit that may be left over.
    """
    units = jnp.floor(stock)
    total = jnp.sum(requests)
    scarce = total > units
    caught = jnp.where(scarce, jnp.floor(units * requests / jnp.where(total > 0, total, 1.0)), requests)

    def hand_out(caught: jax.Array, draw: jax.Array) -> tuple[jax.Array, None]:
        wanted = requests - caught
        below = jnp.cumsum(wanted)
        left = (units - jnp.sum(caught)) >= 1
        # The first agent whose running sum of wants exceeds the draw; a want of 0 is never chosen.
        # The product may be rounded up to the whole sum; wants are whole numbers.
        place = jnp.minimum(draw * below[-1], below[-1] - 0.5)
        chosen = (below > place) & (below - wanted <= place) & (wanted > 0)
        return caught + (chosen & left & scarce), None

    return jax.lax.scan(hand_out, caught, draws)[0]


def share_by_lot(requests: jax.Array, stock: jax.Array, draws: jax.Array) -> jax.Array:
    """[N] whole catches: units handed out one by one, each to a uniform agent that still wants one.

    Args:
      requests: [N] whole numbers. stock: []; only its whole units are handed out.
      draws: [H] uniform in [0, 1), one a unit.
    """

    def hand_out(caught: jax.Array, unit: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        draw, number = unit
        wants = caught < requests
        rank = jnp.cumsum(wants)
        pick = jnp.minimum(jnp.floor(draw * rank[-1]), rank[-1] - 1)
        chosen = wants & (rank - 1 == pick)
        return caught + (chosen & (number < jnp.floor(stock))), None

    numbers = jnp.arange(draws.shape[0], dtype=jnp.float32)
    rationed = jax.lax.scan(hand_out, jnp.zeros_like(requests), (draws, numbers))[0]
    return jnp.where(jnp.sum(requests) > stock, rationed, requests)


def grow(stock: jax.Array, cap: Any, form: str, rate: Any, threshold: Any) -> jax.Array:
    """[] stock after a round's regrowth, in 0 ... cap.

    Args:
      stock: [] what is left after the catch.
      cap: [] largest stock.
      form: doubling: (1 + rate) h; logistic: h + rate h (1 - h/cap); allee: h + rate h (1 - h/cap) (h/threshold - 1).
      rate: [] growth per round; 1 with doubling doubles.
      threshold: [] stock below which an Allee population shrinks; unused otherwise.
    """
    crowded = rate * stock * (1 - stock / cap)
    added = {
        "doubling": rate * stock,
        "logistic": crowded,
        "allee": crowded * (stock / threshold - 1),
    }[form]
    return jnp.clip(stock + added, 0.0, cap)


def sustainable_share(stock: Any, num_agents: int) -> jax.Array:
    """[...] whole request of each agent that doubling makes good: floor(floor(h / 2) / N)."""
    return jnp.floor(jnp.floor(jnp.asarray(stock, jnp.float32) / 2) / num_agents)


def over_use(requests: jax.Array, share: jax.Array) -> jax.Array:
    """[N] bool: which requests [N] exceed the sustainable share []."""
    return requests > share
