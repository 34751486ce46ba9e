"""Prey that belong to the world: they stand still, move at random, flee, or follow a trained network.

The networks of the offline papers are not shipped. `load_prey` reads their parameters from a safetensors file with the
names of the released checkpoint (spec env_mpe.md section 6): `in_fn` is a batch normalisation over the input, used with its
stored statistics, then come three dense layers. The head is tanh in the code of OMAR and CFCQL, and the identity followed by
the clip to [-1, 1] in that of CoFlow; scores with one and the other cannot be compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.particles import rules as physics

PREYS = ("agent", "random", "still", "flee", "trained")
HEADS = ("tanh", "clip")

HIDDEN = 64
"""Width of the two hidden layers."""

_EPSILON = 1e-5
_EDGE, _PULL = 0.8, 2.0
_LAYERS = ("fc1", "fc2", "fc3")
_NORM = {"mean": "running_mean", "variance": "running_var", "scale": "weight", "shift": "bias"}


class PreyParams(NamedTuple):
    """Parameters of the network of a prey with I inputs.

    Attributes:
      mean, variance, scale, shift: [I] batch normalisation of the input.
      weights: three matrices [I, 64], [64, 64], [64, 2].
      biases: three vectors [64], [64], [2].
    """

    mean: Any
    variance: Any
    scale: Any
    shift: Any
    weights: tuple[Any, ...]
    biases: tuple[Any, ...]


def flee(prey: tuple[jax.Array, jax.Array], predators: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Directions away from the predators, near ones first, and back to the middle near the edge.

    The unit vector away from the mean of the predators weighted by 1 / distance^2, plus minus `_PULL` times each coordinate
    that is beyond 0.8; clipped to [-1, 1].

    Args:
      prey: (x, y) [P, ...]. predators: (x, y) [Q, ...].
    Returns:
      (x, y) [P, ...].
    """
    weight = 1 / jnp.maximum(physics.squared_distances(prey, predators), 1e-6)
    total = jnp.sum(weight, axis=1)
    away = [own - jnp.sum(weight * axis[None], axis=1) / total for own, axis in zip(prey, predators, strict=True)]
    length = physics.root(away[0] * away[0] + away[1] * away[1])
    pull = [jnp.where(jnp.abs(own) > _EDGE, -_PULL * own, 0) for own in prey]
    x, y = (jnp.clip(part / length + back, -1, 1) for part, back in zip(away, pull, strict=True))
    return x, y


def network(params: PreyParams, views: jax.Array, head: str) -> jax.Array:
    """Directions that a trained prey plays, without noise.

    Args:
      params: its parameters.
      views: [..., I] its observations.
      head: "tanh" or "clip".
    Returns:
      [..., 2] float32 in [-1, 1].
    """
    scale = params.scale / jnp.sqrt(params.variance + _EPSILON)
    hidden = (views - params.mean) * scale + params.shift
    for weight, bias in zip(params.weights[:-1], params.biases[:-1], strict=True):
        hidden = jax.nn.relu(hidden @ weight + bias)
    output = hidden @ params.weights[-1] + params.biases[-1]
    return jnp.tanh(output) if head == "tanh" else jnp.clip(output, -1, 1)


def init_prey(key: jax.Array, num_inputs: int) -> PreyParams:
    """Random parameters, uniform within 1 / sqrt(fan-in), with statistics 0 and 1.

    Args:
      key: [] typed PRNG key.
      num_inputs: I, length of the prey's own view (`env.prey_inputs`).
    """
    sizes = (num_inputs, HIDDEN, HIDDEN, 2)
    weights, biases = [], []
    for key_layer, fan_in, fan_out in zip(jax.random.split(key, 3), sizes[:-1], sizes[1:], strict=True):
        key_weight, key_bias = jax.random.split(key_layer)
        bound = float(fan_in) ** -0.5
        weights.append(jax.random.uniform(key_weight, (fan_in, fan_out), jnp.float32, -bound, bound))
        biases.append(jax.random.uniform(key_bias, (fan_out,), jnp.float32, -bound, bound))
    zeros, ones = jnp.zeros(num_inputs, jnp.float32), jnp.ones(num_inputs, jnp.float32)
    return PreyParams(zeros, ones, ones, zeros, tuple(weights), tuple(biases))


def check_prey(params: PreyParams, num_inputs: int) -> None:
    """Raise ValueError if a shape does not fit a prey with `num_inputs` inputs; traced values pass if they fit."""
    sizes = (num_inputs, HIDDEN, HIDDEN, 2)
    wanted = {
        **{name: (num_inputs,) for name in _NORM},
        **{f"weights[{i}]": sizes[i : i + 2] for i in range(3)},
        **{f"biases[{i}]": sizes[i + 1 : i + 2] for i in range(3)},
    }
    values = [params.mean, params.variance, params.scale, params.shift, *params.weights, *params.biases]
    if len(values) != len(wanted):
        raise ValueError(f"prey_params: {len(params.weights)} layers, the network has three")
    for (name, shape), value in zip(wanted.items(), values, strict=True):
        if np.shape(value)[-len(shape) :] != shape:
            raise ValueError(f"prey_params.{name}: shape {np.shape(value)}, this world's prey needs {shape}")


def save_prey(path: str | Path, params: PreyParams) -> None:
    """Write parameters to a safetensors file, with the names of the released checkpoints (dense layers [out, in])."""
    from safetensors.numpy import save_file

    tensors = {f"in_fn.{stored}": np.asarray(getattr(params, name)) for name, stored in _NORM.items()}
    for layer, weight, bias in zip(_LAYERS, params.weights, params.biases, strict=True):
        tensors |= {f"{layer}.weight": np.ascontiguousarray(np.asarray(weight).T), f"{layer}.bias": np.asarray(bias)}
    save_file(tensors, str(path))


def load_prey(path: str | Path) -> PreyParams:
    """Read parameters from a safetensors file with the names of the released checkpoints.

    Args:
      path: file with `in_fn.{running_mean, running_var, weight, bias}` [I] and `fc1`, `fc2`, `fc3` `.weight` [out, in] and
        `.bias` [out].
    Returns:
      NumPy parameters for the field `prey_params`.
    Raises:
      ValueError: for another kind of file (a pickled one is never opened), or one that lacks a tensor; with the remedy.
      FileNotFoundError: if there is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file; prey parameters are not shipped, see docs/environments/particles.md"
        )
    remedy = (
        "convert it where you trust it: read it with torch.load, take the state dict of the prey's policy (entries of in_fn, "
        "fc1, fc2, fc3), and write safetensors.torch.save_file({name: value.contiguous() for name, value in "
        "policy.items()}, out)"
    )
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: only .safetensors is read, because a pickled file can run code; {remedy}")
    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path}: is no safetensors file ({error}); {remedy}") from error
    names = [f"in_fn.{name}" for name in _NORM.values()]
    names += [f"{layer}.{part}" for layer in _LAYERS for part in ("weight", "bias")]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)} (it has {', '.join(sorted(tensors))})")
    tensors = {name: np.asarray(tensors[name], np.float32) for name in names}
    return PreyParams(
        **{name: tensors[f"in_fn.{stored}"] for name, stored in _NORM.items()},
        weights=tuple(np.ascontiguousarray(tensors[f"{layer}.weight"].T) for layer in _LAYERS),
        biases=tuple(tensors[f"{layer}.bias"] for layer in _LAYERS),
    )
