"""Independent Q-learning: `iql`. Every agent learns the values of its own actions from its own reward (Tan 1993).

"Independent" says that no agent's value depends on the others; who shares parameters is the field `sharing`.
"""

from __future__ import annotations

from flax import struct

from marl_bench.algorithms.q_learning import QLearning


@struct.dataclass
class IQL(QLearning):
    """Q-learning without mixing. Raises as `QLearning`."""
