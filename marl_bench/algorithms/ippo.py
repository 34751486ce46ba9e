"""Independent PPO: `ippo`. Every agent's critic reads what its actor reads (de Witt et al. 2020).

"Independent" says that no agent's value depends on the others' views; who shares parameters is the field `sharing`.
Defaults are those of common practice for shared parameters; sources and mathematics in `ppo`.
"""

from __future__ import annotations

from flax import struct

from marl_bench.algorithms.ppo import PPO


@struct.dataclass
class IPPO(PPO):
    """PPO with a critic on each agent's own view. Raises as `PPO`."""
