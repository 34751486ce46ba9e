"""What a channel carries: mutual information, speaker consistency, lie rate, causal influence.

All work on recorded hands and tokens or on policies' probabilities, and know nothing of the environment.
Sources: Miller 1955 (bias of the plug-in entropy); Lowe et al. 2019, *On the Pitfalls of Measuring Emergent Communication*
(speaker consistency, causal influence of communication); Jaques et al. 2019 (consistency).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def joint_counts(hands: Any, tokens: Any, num_hands: int, num_tokens: int) -> jax.Array:
    """[num_hands, num_tokens] float32 counts of pairs of integers [M]."""
    hand = jnp.asarray(hands).reshape(-1, 1) == jnp.arange(num_hands)
    token = jnp.asarray(tokens).reshape(-1, 1) == jnp.arange(num_tokens)
    return hand.astype(jnp.float32).T @ token.astype(jnp.float32)


def _entropy(counts: jax.Array, total: jax.Array, corrected: bool) -> jax.Array:
    probability = counts / total
    plug_in = -jnp.sum(jnp.where(counts > 0, probability * jnp.log(jnp.where(counts > 0, probability, 1.0)), 0.0))
    seen = jnp.sum(counts > 0)
    return plug_in + (jnp.where(seen > 0, seen - 1, 0) / (2 * total) if corrected else 0.0)


def mutual_information(counts: Any, corrected: bool = True) -> jax.Array:
    """Mutual information between hand and token, in nats.

    The plug-in estimate is biased upwards by about (K_hand - 1)(K_token - 1) / (2 M); the Miller-Madow correction adds
    (seen cells - 1) / (2 M) to every entropy and removes most of it. A corrected estimate may be a little below 0.

    Args:
      counts: [H, V] counts with a positive sum M.
      corrected: whether to apply the correction.
    Returns:
      information: [] float32.
    """
    counts = jnp.asarray(counts, jnp.float32)
    total = jnp.sum(counts)
    parts = (counts.sum(axis=1), counts.sum(axis=0), counts.reshape(-1))
    hand, token, joint = (_entropy(part, total, corrected) for part in parts)
    return hand + token - joint


def speaker_consistency(counts: Any) -> jax.Array:
    """Plug-in mutual information over the entropy of the hands: 1 if the token tells the hand, 0 if it tells nothing.

    Args:
      counts: [H, V] counts.
    Returns:
      consistency: [] float32 in 0 ... 1; 0 if only one hand was seen.
    """
    counts = jnp.asarray(counts, jnp.float32)
    entropy = _entropy(counts.sum(axis=1), jnp.sum(counts), False)
    return jnp.where(entropy > 0, mutual_information(counts, False) / jnp.where(entropy > 0, entropy, 1.0), 0.0)


def majority_map(counts: Any) -> jax.Array:
    """[V] int32: the hand for which each token was said most often (the lowest of several)."""
    return jnp.argmax(jnp.asarray(counts), axis=0).astype(jnp.int32)


def lie_rate(counts: Any) -> jax.Array:
    """Fraction of messages whose token means another hand than the speaker's, by the majority hand of each token.

    Tokens have no meaning of their own, so this is measured against the meaning that fits the speaker best: babbling
    with three equally likely hands has a rate of about 2/3, a constant code 0.
    """
    counts = jnp.asarray(counts, jnp.float32)
    return 1 - jnp.sum(jnp.max(counts, axis=0)) / jnp.sum(counts)


def causal_influence(split_probabilities: Any, weights: Any = None) -> jax.Array:
    """How far the partner's token moves an agent's split: mean total variation between splits under intervened tokens.

    Args:
      split_probabilities: [V, K] probability of each of K claims after each token, everything else being equal.
      weights: [V] probability with which tokens are said; None: uniform.
    Returns:
      influence: [] float32 in 0 ... 1: mean over pairs of independent tokens, so identical pairs count as 0.
    """
    splits = jnp.asarray(split_probabilities, jnp.float32)
    count = splits.shape[0]
    weight = jnp.full(count, 1 / count) if weights is None else jnp.asarray(weights, jnp.float32)
    distance = 0.5 * jnp.sum(jnp.abs(splits[:, None] - splits[None, :]), axis=-1)
    return weight @ distance @ weight
