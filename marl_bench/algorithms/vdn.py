"""Value decomposition networks: `vdn`. The team's value is the sum of its agents' values (Sunehag et al. 2018).

    Q_tot(s, a) = sum_i Q_i(o_i, a_i)

is learned from the team's reward; each agent then acts on its own part.
"""

from __future__ import annotations

from flax import struct

from marl_bench.algorithms.q_learning import QLearning
from marl_bench.algorithms.value_based import TEAM_REWARD_DOC
from marl_bench.environment import field


@struct.dataclass
class VDN(QLearning):
    """Q-learning on the sum of the agents' values. Raises as `QLearning`."""

    team_reward: str = field("common", static=True, doc=TEAM_REWARD_DOC)

    @property
    def team(self) -> str:
        """`team_reward`."""
        return self.team_reward
