"""Twin critics of continuous actions, and what they say when single entries of a joint action change.

A critic reads what its judge sees [S] and the actions of A agents, A D numbers. In the first layer an agent's action is a term of
a sum, so a changed action costs D products for each of its units, and [s; a] is never built again for it:

    h(s, a_1 .. b_i .. a_A) = h(s, a) + (b_i - a_i) W_i

Input normalised by the batch (Ioffe and Szegedy 2015) is a linear map of the rows, so it is folded into the first layer, and the
same holds; the moments of the rows with changed actions are computed from those of their parts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.algorithms.networks import ACTIVATIONS, Network
from marl_bench.algorithms.offline import batch_norm


@dataclasses.dataclass(frozen=True)
class TwinCritic:
    """Critics with the same input; static, the parameters are apart: {"twins": [C, ...], "norm": {} or {"scale", "shift": [I]}}.

    Attributes:
      network: of one critic, reading I = S + A D numbers.
      num_critics: C.
      batch_norm: normalise the input by the batch it comes with; one scale and shift for all C.
    """

    network: Network
    num_critics: int = 2
    batch_norm: bool = False

    def init(self, key: jax.Array) -> Any:
        """Draw parameters. `key`: [] typed PRNG key."""
        norm = batch_norm.init((self.network.features,)) if self.batch_norm else {}
        return {"twins": jax.vmap(self.network.init)(jax.random.split(key, self.num_critics)), "norm": norm}

    def values(self, params: Any, read: jax.Array, action: jax.Array) -> jax.Array:
        """[C, n] values of joint actions [n, A D], seen [n, S]."""
        rows = jnp.concatenate([read, action], axis=-1)
        moments = batch_norm.moments(rows) if self.batch_norm else None

        def one(network: Any) -> jax.Array:
            weight, bias = _first(network, params["norm"], moments)
            return self._above(network, _product(rows, weight) + bias)

        return jax.vmap(one)(params["twins"])

    def changed(self, params: Any, read: jax.Array, action: jax.Array, new: jax.Array) -> jax.Array:
        """[C, A, M, n] values of joint actions [n, A D] in which one agent's action is another one, seen [n, S].

        Args:
          new: [A, M, n, D] the M other actions of each agent; the rest is as in `action`.
        """
        count, _, length, size = new.shape
        rows = jnp.concatenate([read, action], axis=-1)
        action = jnp.swapaxes(action.reshape(length, count, size), 0, 1)
        change = new - action[:, None]
        moments = _moments_changed(read, action, new) if self.batch_norm else None

        def one(network: Any) -> jax.Array:
            weight, bias = _first(network, params["norm"], moments)
            own = weight[-count * size :].reshape(count, size, -1)
            hidden = _product(rows, weight) + bias
            return self._above(network, hidden + jnp.einsum("amnd,adh->amnh", change, own, precision="highest"))

        return jax.vmap(one)(params["twins"])

    def joint(self, params: Any, read: jax.Array, new: jax.Array) -> jax.Array:
        """[C, M, n] values of M joint actions [M, n, A D], seen [n, S]."""
        width = read.shape[-1]
        moments = None
        if self.batch_norm:
            seen, done = batch_norm.moments(read), batch_norm.moments(new.reshape(-1, new.shape[-1]))
            moments = jnp.concatenate([seen[0], done[0]]), jnp.concatenate([seen[1], done[1]])

        def one(network: Any) -> jax.Array:
            weight, bias = _first(network, params["norm"], moments)
            hidden = _product(read, weight[:width]) + bias
            return self._above(network, hidden + _product(new, weight[width:]))

        return jax.vmap(one)(params["twins"])

    def _above(self, network: Any, hidden: jax.Array) -> jax.Array:
        """[...] values from what the first layer computes before its activation, [..., H]."""
        activation = ACTIVATIONS[self.network.activation]
        # One axis of rows: with several, XLA transposes in every gradient of a weight.
        rows = activation(hidden.reshape(-1, hidden.shape[-1]))
        for layer in network["dense"][1:]:
            rows = activation(_product(rows, layer["w"]) + layer["b"])
        layer = network["output"]
        return (_product(rows, layer["w"]) + layer["b"]).reshape(hidden.shape[:-1])


def first_critic(params: Any) -> Any:
    """Parameters of the first critic alone, from leaves [G, C, ...]."""
    return {**params, "twins": jax.tree.map(lambda leaf: leaf[:, :1], params["twins"])}


def _moments_changed(read: jax.Array, action: jax.Array, new: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[I] moments of the A M n rows of `TwinCritic.changed`; `action`: [A, n, D]."""
    count = action.shape[0]

    def mixed(function: Any) -> jax.Array:
        # An agent's action is another one in the rows that are its own, one of A.
        old, own = jnp.mean(function(action), axis=1), jnp.mean(function(new), axis=(1, 2))
        return (((count - 1) * old + own) / count).reshape(-1)

    mean = mixed(lambda x: x)
    centre = mean.reshape(count, 1, -1)
    variance = mixed(lambda x: jnp.square(x - (centre if x.ndim == 3 else centre[:, None])))
    seen = batch_norm.moments(read)
    return jnp.concatenate([seen[0], mean]), jnp.concatenate([seen[1], variance])


def _first(network: Any, norm: Any, moments: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, jax.Array]:
    """Weights [I, H] and bias [H] of the first layer, the normalisation of its input folded in."""
    layer = network["dense"][0]
    if moments is None:
        return layer["w"], layer["b"]
    mean, variance = moments
    scale = norm["scale"] * jax.lax.rsqrt(variance + batch_norm.EPSILON)
    return layer["w"] * scale[:, None], layer["b"] + _product(norm["shift"] - mean * scale, layer["w"])


def _product(x: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.matmul(x, weight, precision="highest")
