"""Equations that several learners share, each for one sample or one table; batch with `vmap`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

_ONE_HOT_LIMIT = 64


def huber(error: jax.Array, delta: jax.Array | float) -> jax.Array:
    """0.5 e^2 where |e| < delta, else delta (|e| - delta / 2); elementwise (Huber 1964)."""
    size = jnp.abs(error)
    return jnp.where(size < delta, 0.5 * error**2, delta * (size - 0.5 * delta))


def linear_schedule(
    initial: jax.Array | float, final: jax.Array | float, count: jax.Array, length: jax.Array | float
) -> jax.Array:
    """initial + (final - initial) count / length for count <= length, `final` afterwards."""
    progress = jnp.minimum(count.astype(jnp.float32) / length, 1.0)
    return initial + (final - initial) * progress


def boltzmann(q_values: jax.Array, temperature: jax.Array | float, mask: jax.Array | None = None) -> jax.Array:
    """softmax(Q / temperature) over the last axis; illegal actions (mask False) get probability 0."""
    logits = q_values / temperature
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    return jax.nn.softmax(logits, axis=-1)


def epsilon_greedy(q_values: jax.Array, epsilon: jax.Array | float, mask: jax.Array | None = None) -> jax.Array:
    """(1 - epsilon) on the best action, epsilon spread evenly over the legal ones (last axis)."""
    legal = jnp.ones(q_values.shape, bool) if mask is None else mask
    best = jnp.argmax(jnp.where(legal, q_values, -jnp.inf), axis=-1)
    uniform = legal / jnp.sum(legal, axis=-1, keepdims=True)
    return epsilon * uniform + (1.0 - epsilon) * jax.nn.one_hot(best, q_values.shape[-1])


def cumulative_thresholds(probabilities: jax.Array) -> jax.Array:
    """[..., A] probabilities -> [..., A - 1] uint32 cumulative bounds, so that action = sum(word >= bounds)."""
    cumulative = jnp.cumsum(probabilities, axis=-1)[..., :-1]
    # The largest float32 below 2^32: a probability of one must not wrap to zero.
    return jnp.minimum(cumulative * np.float32(2.0**32), np.float32(2.0**32 - 256)).astype(jnp.uint32)


def lookup(table: jax.Array, index: jax.Array) -> jax.Array:
    """table[index] for a vector `table` [K] and indices [n] known to lie in 0 ... K - 1.

    Short tables are read by comparing and summing, which vectorises; long ones by a gather.
    """
    size = table.shape[0]
    if size > _ONE_HOT_LIMIT:
        return table.at[index].get(mode="promise_in_bounds")
    rows = jnp.arange(size, dtype=index.dtype)
    zero = jnp.zeros((), table.dtype)
    return jnp.sum(jnp.where(index[None, :] == rows[:, None], table[:, None], zero), axis=0, dtype=table.dtype)


@jax.custom_vjp
def gather_entries(table: jax.Array, index: jax.Array) -> jax.Array:
    """table[index] for float `table` [M], indices [n] in range; its gradient is a one-hot product, not a scatter.

    A scatter-add sums in an undefined order on GPUs; the product is deterministic and as fast.
    """
    return table.at[index].get(mode="promise_in_bounds")


def _gather_forward(table: jax.Array, index: jax.Array) -> tuple[jax.Array, tuple[jax.Array, int]]:
    return gather_entries(table, index), (index, table.shape[0])


def _gather_backward(residual: tuple[jax.Array, int], cotangent: jax.Array) -> tuple[jax.Array, None]:
    index, size = residual
    one_hot = (index[:, None] == jnp.arange(size, dtype=index.dtype)).astype(cotangent.dtype)
    return jnp.matmul(cotangent, one_hot, precision="highest"), None


gather_entries.defvjp(_gather_forward, _gather_backward)


@struct.dataclass
class AdamState:
    """State of AdamW.

    Attributes:
      mean: pytree like the parameters, first moment.
      variance: pytree like the parameters, second moment.
      mean_decay: [] float32, beta_1^t (kept as a running product: a power per element and step costs more than the step).
      variance_decay: [] float32, beta_2^t.
    """

    mean: object
    variance: object
    mean_decay: jax.Array
    variance_decay: jax.Array


def adamw_init(params: object) -> AdamState:
    """Zero moments for `params`."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return AdamState(zeros, jax.tree.map(jnp.zeros_like, params), jnp.float32(1), jnp.float32(1))


def global_norm(tree: Any) -> jax.Array:
    """[] L2 norm of all entries of all leaves."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def clip_by_global_norm(gradient: object, max_norm: jax.Array | float) -> object:
    """Scale the whole tree by min(1, max_norm / its L2 norm)."""
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(global_norm(gradient), 1e-30))
    return jax.tree.map(lambda leaf: leaf * scale, gradient)


def adamw(
    params: object,
    gradient: object,
    state: AdamState,
    *,
    learning_rate: jax.Array | float,
    weight_decay: jax.Array | float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> tuple[object, AdamState]:
    """One AdamW step (Loshchilov and Hutter 2019, algorithm 2): decoupled decay on every leaf, biases included."""
    mean_decay = state.mean_decay * beta1
    variance_decay = state.variance_decay * beta2
    mean_scale = 1.0 / (1.0 - mean_decay)
    variance_scale = 1.0 / (1.0 - variance_decay)
    mean = jax.tree.map(lambda m, g: beta1 * m + (1.0 - beta1) * g, state.mean, gradient)
    variance = jax.tree.map(lambda v, g: beta2 * v + (1.0 - beta2) * g * g, state.variance, gradient)

    def step(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        direction = (m * mean_scale) / (jnp.sqrt(v * variance_scale) + epsilon)
        return p - learning_rate * (direction + weight_decay * p)

    return jax.tree.map(step, params, mean, variance), AdamState(mean, variance, mean_decay, variance_decay)


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    discount: jax.Array,
    is_last: jax.Array,
    gamma: jax.Array | float,
    lambda_: jax.Array | float,
) -> jax.Array:
    """Generalised advantage estimates of one sequence (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma d_t v'_t - v_t;  A_t = delta_t + gamma lambda (1 - last_t) A_{t+1}.

    Args:
      reward: [T]. value: [T], of the observation acted on.
      next_value: [T], of the observation after the step, the episode's own also at its end.
      discount: [T], 0 at termination, 1 otherwise (also at truncation, where the value is bootstrapped).
      is_last: [T] bool, whether the episode ended with the step, in whichever way: nothing flows back across it.
      gamma: discount factor. lambda_: weight of longer returns.
    Returns:
      [T] advantages.
    """
    delta = reward + gamma * discount * next_value - value
    decay = gamma * lambda_ * (1.0 - is_last)

    def back(later: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        here = inputs[0] + inputs[1] * later
        return here, here

    return jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)[1]


def lambda_targets(
    reward: jax.Array,
    next_value: jax.Array,
    discount: jax.Array,
    is_last: jax.Array,
    gamma: jax.Array | float,
    lambda_: jax.Array | float,
) -> jax.Array:
    """[T] TD(lambda) targets of one sequence; arguments as for `gae`.

    G_t = r_t + gamma d_t ((1 - lambda) v'_t + lambda G_{t+1}) within an episode; at its end, and at the end of the sequence,
    G_t = r_t + gamma d_t v'_t (Sutton and Barto 2018, eq. 12.2, in its recursive form).
    """

    def back(later: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        target, weight = later
        reward_t, value_t, discount_t, last_t = inputs
        mixed = value_t + weight * lambda_ * (1.0 - last_t) * (target - value_t)
        here = reward_t + gamma * discount_t * mixed
        return (here, jnp.ones_like(weight)), here

    zero = jnp.zeros_like(reward[0] + next_value[0])
    return jax.lax.scan(back, (zero, zero), (reward, next_value, discount, is_last * 1.0), reverse=True)[1]
