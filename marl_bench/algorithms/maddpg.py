"""Multi-agent deep deterministic policy gradient: `maddpg` (Lowe et al. 2017).

Each agent has an actor on its own view and a critic on everything, which judges the joint action with the others' actions as
they were played; so to each critic the world is stationary while all policies change. The mathematics stands in `ddpg`.
"""

from __future__ import annotations

from flax import struct

from marl_bench.algorithms.ddpg import DDPG


@struct.dataclass
class MADDPG(DDPG):
    """Deterministic policies, one centralised critic an agent. Raises as `DDPG`."""
