"""Replay of observation codes: the last few steps of an endless game, a few bits an agent and step.

Where an environment has few distinct views (`num_codes`) and a view determines the agent's last action and reward
(`code_outcome`), replay need not store transitions: the codes at times s ... s + n hold everything about an n-step
transition that began at s. The ring stores, for each time T and agent, one uint32 with the codes of times
T, T - 1, ... (newest in the lowest bits), so that an n-step transition is usually a single read.

Times count environment steps: the code at time t is what the agent saw before step t's action.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@struct.dataclass
class CodeReplay:
    """Ring of packed codes.

    Attributes:
      history: [N] uint32, the newest word of each agent.
      ring: [num_steps + 1, N] uint32, the word of time T at row T mod (num_steps + 1).
      code_bits: bits a code takes (static).
    """

    history: jax.Array
    ring: jax.Array
    code_bits: int = struct.field(pytree_node=False)

    @property
    def num_steps(self) -> int:
        """Capacity: the number of most recent environment steps that can be sampled."""
        return self.ring.shape[0] - 1

    @property
    def code(self) -> jax.Array:
        """[N] uint8: the newest code of each agent."""
        return (self.history & np.uint32(2**self.code_bits - 1)).astype(jnp.uint8)


def bits_of(num_codes: int) -> int:
    """Number of bits that hold codes 0 ... num_codes - 1."""
    return max(1, int(num_codes - 1).bit_length())


def init(code: jax.Array, num_codes: int, num_steps: int) -> CodeReplay:
    """A replay that holds time 0 only. `code`: [N] uint8; `num_steps`: capacity in environment steps."""
    history = code.astype(jnp.uint32)
    ring = jnp.zeros((num_steps + 1, code.shape[0]), jnp.uint32)
    return CodeReplay(history=history, ring=ring.at[0].set(history), code_bits=bits_of(num_codes))


def add(replay: CodeReplay, code: jax.Array, time: jax.Array) -> CodeReplay:
    """Append the codes [N] seen at `time` [] int32 (one more than the last)."""
    history = (replay.history << np.uint32(replay.code_bits)) | code.astype(jnp.uint32)
    row = time % replay.ring.shape[0]
    ring = jax.lax.dynamic_update_slice(replay.ring, history[None], (row, jnp.int32(0)))
    return dataclasses.replace(replay, history=history, ring=ring)


def windows(replay: CodeReplay, age: jax.Array, agent: jax.Array, newest: jax.Array, n_step: int) -> jax.Array:
    """Codes of sampled transitions.

    Args:
      age: [n] int32, how many steps before the newest stored step the transition began (0 = newest).
      agent: [n] int32 agent index.
      newest: [] int32, time s of the newest stored step (its outcome was seen at s + 1).
      n_step: window length.
    Returns:
      codes: [n_step + 1, n] uint32, codes at times s, s + 1, ..., s + n_step; entries later than the newest time
      repeat the newest code (callers use the 1-step target there).
    """
    rows, num_agents = replay.ring.shape
    per_word = 32 // replay.code_bits
    length = jnp.minimum(n_step, age + 1)
    flat = replay.ring.reshape(-1)
    offset = jnp.minimum(jnp.arange(n_step + 1, dtype=jnp.int32)[:, None], length)  # [n + 1, samples]
    back = length - offset  # how many steps before the window's last time
    codes = jnp.zeros(offset.shape, jnp.uint32)
    for word in range(-(-(n_step + 1) // per_word)):
        # Early windows reach before time 0; those words are never selected below.
        behind = jnp.minimum(age + 1 - length + word * per_word, rows - 1)
        row = newest % rows + 1 - behind
        row = jnp.where(row < 0, row + rows, jnp.where(row >= rows, row - rows, row))
        packed = flat.at[row * num_agents + agent].get(mode="promise_in_bounds")
        shift = jnp.clip(back - word * per_word, 0, per_word - 1) * replay.code_bits
        unpacked = (packed[None] >> shift.astype(jnp.uint32)) & np.uint32(2**replay.code_bits - 1)
        codes = jnp.where(back // per_word == word, unpacked, codes)
    return codes
