"""Networks as plain pytrees: `init(key, ...) -> params`, `apply(params, x) -> y`.

`init_mlp` and `mlp` are the perceptron of `dqn`. `Network` is what every other online learner uses: convolutions for grid
windows, a perceptron, a GRU and a linear output, each of which may be absent. Its functions are for one agent; batches,
agents and parameter slots come by `vmap`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench import sharding


def init_mlp(key: jax.Array, sizes: tuple[int, ...]) -> list[dict[str, jax.Array]]:
    """Draw weights *and* biases i.i.d. uniform in +-1/sqrt(fan_in), the linear default of PyTorch.

    Args:
      key: [] typed PRNG key.
      sizes: widths from input to output.
    Returns:
      One {"w": [in, out], "b": [out]} float32 a layer.
    """
    layers = []
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        key_weights, key_bias = jax.random.split(jax.random.fold_in(key, layer))
        bound = fan_in**-0.5
        layers.append(
            {
                "w": jax.random.uniform(key_weights, (fan_in, fan_out), jnp.float32, -bound, bound),
                "b": jax.random.uniform(key_bias, (fan_out,), jnp.float32, -bound, bound),
            }
        )
    return layers


def mlp(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """ReLU perceptron, linear output: [..., in] -> [..., out], in full float32 on every device."""
    for layer in params[:-1]:
        x = jax.nn.relu(jnp.matmul(x, layer["w"], precision="highest") + layer["b"])
    return jnp.matmul(x, params[-1]["w"], precision="highest") + params[-1]["b"]


def hidden_features(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Activations of the last hidden layer (after ReLU): [..., in] -> [..., hidden]."""
    for layer in params[:-1]:
        x = jax.nn.relu(jnp.matmul(x, layer["w"], precision="highest") + layer["b"])
    return x


# --- networks of the online learners -------------------------------------------------------------------------

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}
KERNEL = 3
"""Rows and columns of a convolution's kernel."""


@dataclasses.dataclass(frozen=True)
class Network:
    """Convolutions -> dense layers -> GRU -> linear output; static and hashable, the parameters are apart.

    Weights are orthogonal with gain sqrt(2) (ReLU, and tanh as in the PPO papers), biases zero; the GRU's recurrent matrices
    are orthogonal with gain 1 (Saxe et al. 2014; Andrychowicz et al. 2021, C66).

    Attributes:
      input_shape: (O,) or, with `channels`, (H, W, C).
      outputs: K, width of the output.
      hidden_sizes: widths of the dense layers.
      activation: "relu" or "tanh".
      channels: channels of the 3 x 3 convolutions (stride 1, no padding); () for none.
      recurrent_size: width of the GRU; 0 for none.
      output_scale: gain of the output layer.
      extra: entries appended to the features before the dense layers (a one-hot agent id, an action).
      layer_norm: normalise what every hidden layer computes before its activation (Ba et al. 2016), with scale and shift.
    """

    input_shape: tuple[int, ...]
    outputs: int
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    channels: tuple[int, ...] = ()
    recurrent_size: int = 0
    output_scale: float = 1.0
    extra: int = 0
    layer_norm: bool = False

    @property
    def features(self) -> int:
        """Entries that the dense layers read."""
        if not self.channels:
            return math.prod(self.input_shape) + self.extra
        rows, cols = (size - (KERNEL - 1) * len(self.channels) for size in self.input_shape[:2])
        return rows * cols * self.channels[-1] + self.extra

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Draw parameters. `key`: [] typed PRNG key."""
        gain, size = math.sqrt(2.0), self.recurrent_size
        depths, widths = (self.input_shape[-1], *self.channels), (self.features, *self.hidden_sizes)
        convolutions = [(KERNEL * KERNEL * inputs, outputs) for inputs, outputs in itertools.pairwise(depths)]
        dense = list(itertools.pairwise(widths))
        gru = [(widths[-1], size)] * 3 + [(size, size)] * 3 if size else []
        shapes = [*convolutions, *dense, *gru, (size or widths[-1], self.outputs)]
        drawn = iter(orthogonal(key, shapes))

        def layers(count: int, scale: float) -> list[dict[str, jax.Array]]:
            matrices = [scale * next(drawn) for _ in range(count)]
            return [{"w": matrix, "b": jnp.zeros(matrix.shape[1])} for matrix in matrices]

        params: dict[str, Any] = {"convolution": layers(len(convolutions), gain), "dense": layers(len(dense), gain)}
        if self.layer_norm:
            for layer in (*params["convolution"], *params["dense"]):
                layer |= {"scale": jnp.ones_like(layer["b"]), "shift": jnp.zeros_like(layer["b"])}
        if size:
            gates = [jnp.concatenate([next(drawn) for _ in range(3)], axis=1) for _ in range(2)]
            params["gru"] = {"w": gates[0], "b": jnp.zeros(3 * size), "u": gates[1], "c": jnp.zeros(size)}
        params["output"] = layers(1, self.output_scale)[0]
        return params

    def initial_memory(self) -> jax.Array:
        """[recurrent_size] float32 zeros: what a GRU remembers when an episode starts."""
        return jnp.zeros(self.recurrent_size)

    def apply(
        self, params: Any, memory: jax.Array, view: jax.Array, is_first: jax.Array, extra: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """One step.

        Args:
          memory: [recurrent_size].
          view: `input_shape`, any number type.
          is_first: [] bool, whether the view starts an episode: the memory is then cleared *before* it is used.
          extra: [extra] or None.
        Returns:
          memory: after this step, and output: [K].
        """
        features = self._body(params, view, extra)
        if self.recurrent_size:
            memory = _gru(params["gru"], _gates(params["gru"], features), memory, is_first)
            features = memory
        return memory, _linear(params["output"], features)

    def unroll(
        self, params: Any, memory: jax.Array, views: jax.Array, is_first: jax.Array, extra: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """T steps at once: all but the GRU see the whole sequence in one product.

        Gradients of many sequences are faster with a batch axis here than under `vmap` (slots.unroll_rows).

        Args:
          memory: [recurrent_size] before the first step; or [B, recurrent_size], and the same axis in all that follows.
          views: [T, *input_shape]; is_first: [T] bool; extra: [T, extra] or None; with a batch [T, B, ...].
        Returns:
          memories: [T, recurrent_size] after each step, and outputs: [T, K]; with a batch [T, B, ...].
        """
        batched = memory.ndim > 1
        flat = jax.tree.map(sharding.merged, (views, extra)) if batched else (views, extra)
        by_time = functools.partial(sharding.unmerged, num_steps=len(views)) if batched else lambda leaf: leaf
        features = jax.vmap(lambda view, more: self._body(params, view, more))(*flat)
        if not self.recurrent_size:
            memories = jnp.broadcast_to(memory, (len(views), *memory.shape))
            return memories, by_time(_linear(params["output"], features))

        def step(carry: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            # The product with the input stays in the loop: what it gives is then read while it lies in the cache, and whole,
            # where slices of a stored sequence keep XLA from vectorising the gates (2.5 times the time on a CPU).
            carry = _gru(params["gru"], _gates(params["gru"], inputs[0]), carry, inputs[1])
            return carry, carry

        _, memories = jax.lax.scan(step, memory, (by_time(features), is_first))
        return memories, by_time(_linear(params["output"], sharding.merged(memories) if batched else memories))

    def _body(self, params: Any, view: jax.Array, extra: jax.Array | None) -> jax.Array:
        activation = ACTIVATIONS[self.activation]
        x = view.astype(jnp.float32)
        for layer in params.get("convolution", ()):
            x = activation(_normalized(layer, _convolution(layer, x)))
        x = x.reshape(-1)
        if extra is not None:
            x = jnp.concatenate([x, extra])
        for layer in params["dense"]:
            x = activation(_normalized(layer, _linear(layer, x)))
        return x


def orthogonal(key: jax.Array, shapes: Sequence[tuple[int, int]]) -> list[jax.Array]:
    """Draw matrices with orthonormal columns (rows, if there are more columns), uniform over all such matrices.

    Gram-Schmidt on normal numbers, twice a column for rounding; all matrices at once, padded, because each draw and each
    decomposition of its own costs a third of a second to compile.

    Args:
      key: [] typed PRNG key.
      shapes: (rows, columns) of each matrix.
    """
    rows, cols = max(map(max, shapes)), max(map(min, shapes))
    sizes = np.array([(max(shape), min(shape)) for shape in shapes])
    inside = (np.arange(rows) < sizes[:, :1])[:, None] & (np.arange(cols) < sizes[:, 1:])[:, :, None]
    drawn = jnp.where(inside, jax.random.normal(key, (len(shapes), cols, rows)), 0.0)

    def next_column(basis: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        place, column = inputs
        for _ in range(2):
            overlap = jnp.einsum("mcr,mr->mc", basis, column, precision="highest")
            column = column - jnp.einsum("mcr,mc->mr", basis, overlap, precision="highest")
            column = column / jnp.maximum(jnp.linalg.norm(column, axis=1, keepdims=True), 1e-30)
        return basis.at[:, place].set(column), None

    basis, _ = jax.lax.scan(next_column, jnp.zeros_like(drawn), (jnp.arange(cols), jnp.swapaxes(drawn, 0, 1)))
    found = [matrix[: min(shape), : max(shape)] for matrix, shape in zip(basis, shapes, strict=True)]
    return [matrix.T if shape[0] >= shape[1] else matrix for matrix, shape in zip(found, shapes, strict=True)]


def _linear(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.matmul(x, layer["w"], precision="highest") + layer["b"]


def _normalized(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Layer normalisation of the last axis, where the layer has it."""
    if "scale" not in layer:
        return x
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-6) * layer["scale"] + layer["shift"]


def _convolution(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """[H, W, C] -> [H - 2, W - 2, K], as a product with the nine shifted pictures.

    Under `vmap` over parameter slots a convolution becomes a grouped one, which is very slow on a CPU; a product stays one.
    """
    rows, cols = x.shape[0] - KERNEL + 1, x.shape[1] - KERNEL + 1
    shifted = [x[i : i + rows, j : j + cols] for i in range(KERNEL) for j in range(KERNEL)]
    return _linear(layer, jnp.concatenate(shifted, axis=-1))


def _gates(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """[..., 3 H] what the input adds to the reset gate, the update gate and the candidate."""
    return _linear(params, x)


def _gru(params: dict[str, jax.Array], gates: jax.Array, memory: jax.Array, is_first: jax.Array) -> jax.Array:
    """[..., H] next memory (Cho et al. 2014, with the candidate's bias inside the reset, as in cuDNN and flax)."""
    memory = jnp.where(is_first[..., None], 0.0, memory)
    reset_x, update_x, candidate_x = jnp.split(gates, 3, -1)
    reset_h, update_h, candidate_h = jnp.split(jnp.matmul(memory, params["u"], precision="highest"), 3, -1)
    reset, update = jax.nn.sigmoid(reset_x + reset_h), jax.nn.sigmoid(update_x + update_h)
    candidate = jnp.tanh(candidate_x + reset * (candidate_h + params["c"]))
    return (1.0 - update) * candidate + update * memory
