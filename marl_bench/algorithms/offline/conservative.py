"""Conservative terms for many agents, and what they are measured with (Shao et al. 2023, arXiv 2309.12696).

With Q^{i,k} the team's value if agent i alone took action k, in a step (o, a, s) of the data:

    counterfactual   R_CF = sum_i lambda_i logsumexp_k Q^{i,k} - Q(a),   lambda = softmax_i(temperature * sign * kappa_i)
    joint            R_MA = logsumexp_m Q(a^m) - Q(a),                   a^m joint actions, sampled or all
    deviation        kappa_i = KL(softmax_k Q^{i,k} || beta_i)

Actions stand on the last axis, agents before it; `mask`: [..., N, A] bool legal actions.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.algorithms.distributions import MASKED

ARGMAX = 100.0
"""From this temperature on all weight lies on one agent (in the released code 100 stands for that)."""
SMALL = 1e-5
"""Added to probabilities before their logarithm, as released."""
LEAST = 1e-7
"""Divergences are at least this, for their logarithm."""


def log_sum_exp(values: jax.Array, mask: jax.Array) -> jax.Array:
    """[...] log of the sum of exp over the legal entries of `values` [..., A]."""
    return jax.nn.logsumexp(jnp.where(mask, values, MASKED), axis=-1)


def deviation(values: jax.Array, mask: jax.Array, log_behaviour: jax.Array) -> jax.Array:
    """[..., N] kappa, how far softmax(values) lies from the policy of the data.

    Args:
      values: [..., N, A] counterfactual values. log_behaviour: [..., N, A].
    """
    chance = jax.nn.softmax(jnp.where(mask, values, MASKED)) + SMALL
    terms = chance * (jnp.log(chance) - jnp.log(jnp.exp(log_behaviour) + SMALL))
    return jnp.sum(jnp.where(mask, terms, 0.0), axis=-1)


def agent_weights(deviations: jax.Array, temperature: jax.Array | float, sign: jax.Array | float) -> jax.Array:
    """[..., N] lambda, which sums to 1, from kappa [..., N].

    Args:
      temperature: 0 for equal weights; from `ARGMAX` on 1 for the agent with the largest sign * kappa.
      sign: +1: more weight on agents that deviate more (as released), -1: less.
    """
    signed = sign * deviations
    hard = jnp.asarray(temperature) >= ARGMAX
    soft = jax.nn.softmax(jnp.where(hard, 0.0, temperature) * signed)
    return jnp.where(hard, jax.nn.one_hot(jnp.argmax(signed, axis=-1), signed.shape[-1]), soft)


def every_joint_action(num_agents: int, num_actions: int) -> np.ndarray:
    """[A^N, N] int32."""
    return np.array(list(itertools.product(range(num_actions), repeat=num_agents)), np.int32)


def sampled_joint_actions(key: jax.Array, shape: tuple[int, ...], num_actions: int) -> jax.Array:
    """`shape` int32, each entry uniform over all actions, legal or not. `key`: [] typed PRNG key."""
    return jnp.floor(jax.random.uniform(key, shape) * num_actions).astype(jnp.int32)


# --- divergences ------------------------------------------------------------------------------------------------


def log_chi_square(log_target: jax.Array, log_behaviour: jax.Array, mask: jax.Array) -> jax.Array:
    """[..., N] log(1 + d_i), d_i = sum_a pi_i(a)^2 / beta_i(a) - 1, from log-probabilities [..., N, A]."""
    return log_sum_exp(2.0 * log_target - log_behaviour, mask)


def log_divergences(log_ratios: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[...] log D_CF and log D_MA from log(1 + d_i) [..., N].

    D_CF = mean_i d_i, D_MA = prod_i (1 + d_i) - 1; both at least `LEAST`.
    """
    ratios = jnp.maximum(log_ratios, LEAST)
    alone = jax.nn.logsumexp(_log_expm1(ratios), axis=-1) - jnp.log(ratios.shape[-1])
    return alone, _log_expm1(jnp.sum(ratios, axis=-1))


def log_mean(logs: jax.Array, valid: jax.Array) -> jax.Array:
    """[] log of the mean of exp(logs) over the valid entries."""
    return jax.nn.logsumexp(jnp.where(valid, logs, -jnp.inf)) - jnp.log(jnp.maximum(jnp.sum(valid), 1))


def _log_expm1(x: jax.Array) -> jax.Array:
    """log(exp(x) - 1) for x > 0, without overflow."""
    return x + jnp.log(-jnp.expm1(-x))
