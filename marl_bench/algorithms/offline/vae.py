"""How likely an agent's action is in the data: a variational autoencoder of joint actions (Kingma and Welling 2014; as in Shao et al. 2023).

Given the state s and the joint action u of all agents, with standard normal eps:

    encoder   (mean, log std) of z,  z = mean + std * eps          decoder   tanh, an action
    loss      mean (decoder(s, z) - u)^2 + mean KL(encoder(s, u) || N(0, 1)) / 2

The density of agent i's part u_i of a joint action is estimated with L draws z_l, weighted by their importance,

    log beta_i = log (1/L) sum_l N(u_i; decoder(s, z_l)_i, 1/8) N(z_l; 0, 1) / N(z_l; mean, std^2).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.algorithms.distributions import Normal
from marl_bench.algorithms.networks import init_mlp, mlp

LOG_STD = (-4.0, 15.0)
"""Least and largest log standard deviation of z, as released."""
DECODER_VARIANCE = 0.5 / 4.0
"""Of an entry of an action around what the decoder says, in half widths of the bounds, squared."""


@dataclasses.dataclass(frozen=True)
class ActionVAE:
    """Networks of the encoder and the decoder; static, the parameters are apart: {"encoder", "decoder"} from `init`.

    Attributes:
      read_size: S, numbers of a state. joint_size: A D, those of a joint action; z has twice as many.
      hidden_sizes: of both networks.
    """

    read_size: int
    joint_size: int
    hidden_sizes: tuple[int, ...]

    def init(self, key: jax.Array) -> Any:
        """Draw parameters. `key`: [] typed PRNG key."""
        hidden = 2 * self.joint_size
        sizes = {
            "encoder": (self.read_size + self.joint_size, *self.hidden_sizes, 2 * hidden),
            "decoder": (self.read_size + hidden, *self.hidden_sizes, self.joint_size),
        }
        keys = jax.random.split(key, len(sizes))
        return {name: init_mlp(one, sizes[name]) for name, one in zip(sizes, keys, strict=True)}

    def encoded(self, params: Any, read: jax.Array, joint: jax.Array) -> Normal:
        """[n, 2 A D] what z is for joint actions [n, A D] in states [n, S]."""
        mean, log_std = jnp.split(mlp(params["encoder"], jnp.concatenate([read, joint], axis=-1)), 2, axis=-1)
        return Normal(mean, jnp.clip(log_std, *LOG_STD))

    def decoded(self, params: Any, read: jax.Array, hidden: jax.Array) -> jax.Array:
        """[n, A D] joint actions from z [n, 2 A D]."""
        return jnp.tanh(mlp(params["decoder"], jnp.concatenate([read, hidden], axis=-1)))

    def loss(self, params: Any, read: jax.Array, joint: jax.Array, noise: jax.Array) -> jax.Array:
        """[] loss of joint actions. `noise`: [n, 2 A D] standard normal."""
        code = self.encoded(params, read, joint)
        error = jnp.mean(jnp.square(self.decoded(params, read, code.sample(noise)) - joint))
        divergence = jnp.exp(2.0 * code.log_std) + jnp.square(code.mean) - 1.0 - 2.0 * code.log_std
        return error + 0.25 * jnp.mean(divergence)

    def log_density(
        self, params: Any, read: jax.Array, joint: jax.Array, noise: jax.Array, num_agents: int
    ) -> jax.Array:
        """[n, A] log-density of each agent's part of joint actions [n, A D], each agent's with the same z.

        Args:
          noise: [L, n, 2 A D] standard normal. num_agents: A.
        """
        code = self.encoded(params, read, joint)
        hidden = code.sample(noise)
        prior = Normal(jnp.zeros_like(hidden), jnp.zeros_like(hidden))
        importance = prior.log_prob(hidden) - code.log_prob(hidden)
        mean = self.decoded(params, jnp.broadcast_to(read, (*hidden.shape[:2], read.shape[-1])), hidden)
        by_agent = (*mean.shape[:2], num_agents, -1)
        error = jnp.sum(jnp.square(mean - joint).reshape(by_agent), axis=-1)
        entries = joint.shape[-1] // num_agents
        log = -0.5 * (error / DECODER_VARIANCE + entries * math.log(2.0 * math.pi * DECODER_VARIANCE))
        return jax.nn.logsumexp(log + importance[..., None], axis=0) - math.log(len(noise))
