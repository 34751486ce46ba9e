"""Double Q-learning with TD(lambda) on recorded episodes: what `cfcql`, `macql` and `cql` share.

The best action is chosen by the learned values and judged by those of a target network, which is copied after every
`target_period` updates (as released by Shao et al. 2023).
"""

from __future__ import annotations

from typing import Any

import jax
from flax import struct

from marl_bench.algorithms.offline.recurrent import RecurrentLearner, copied
from marl_bench.algorithms.value_based import best_action, picked
from marl_bench.datasets.sampling import Sequence
from marl_bench.environment import Environment, Observation, check_range, field


@struct.dataclass
class DoubleQLearner(RecurrentLearner):
    """Base of the learners of action values; its networks include "q". Raises as `RecurrentLearner`."""

    conservative_weight: float = field(50.0, doc="weight of the conservative term [alpha]; 0: plain Q-learning")
    td_lambda: float = field(0.6, doc="weight of longer returns in the targets [lambda], in [0, 1]; 0: one step")
    target_period: int = field(25, doc="updates between two copies of the network to the target network")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "conservative_weight", 0.0)
        check_range(self, "td_lambda", 0.0, 1.0)
        check_range(self, "target_period", 1)

    @property
    def actions(self) -> str:
        """ "discrete"."""
        return "discrete"

    @property
    def counterpart(self) -> str:
        """The learner of the same name for continuous actions."""
        return f"{self.name}_continuous"

    def act(
        self, params: Any, memory: Any, observation: Observation, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """Each agent's best action [N] int32, by its own values; `greedy` changes nothing."""
        del key, greedy
        values, remembered = self.step(params["q"], params["slots"], memory, observation)
        action = best_action(values, observation.action_mask)
        return action, (remembered, action)

    def best_values(self, target: Any, env: Environment, batch: Sequence, q: jax.Array) -> jax.Array:
        """[T, R, N] what target networks say after each step of the actions that the learned values `q` [T + 1, R, N, A] like best."""
        assert batch.mask is not None
        return picked(self.unrolled(target["q"], env, batch)[1:], best_action(q[1:], batch.mask[1:]))

    def next_target(self, target: Any, networks: Any, updates: jax.Array) -> Any:
        """A copy of the networks after every `target_period` updates."""
        return copied(target, networks, updates % self.target_period == 0)
