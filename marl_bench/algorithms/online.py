"""What all online learners but `dqn` share: settings of play, networks, parameter slots and evaluation.

`OnlineLearner` has the fields; a learner adds its own, gives other defaults, and writes `init`, `update` and `act`.
"""

from __future__ import annotations

from flax import struct

from marl_bench.algorithms import rollout
from marl_bench.algorithms.networked import NetworkLearner
from marl_bench.environment import Environment, check_integer, field
from marl_bench.vector import VectorEnvironment


@struct.dataclass
class OnlineLearner(NetworkLearner):
    """Base of the online learners.

    Raises:
      ValueError: for values out of range. TypeError: for values of the wrong type.
    """

    num_envs: int = field(16, static=True, doc="copies of the environment stepped side by side [B]")
    num_steps: int = field(128, static=True, doc="steps of each copy between two updates [T]", unit="steps")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_envs", "num_steps"):
            check_integer(self, name, 1)

    def _check_minibatches(self, minibatches: int) -> None:
        rows, what = (self.num_envs, "num_envs") if self.recurrent_size else (self.update_steps, "num_envs * num_steps")
        if rows % minibatches:
            raise ValueError(
                f"minibatches={minibatches}: must divide {what} = {rows} (fields of {self._kind}"
                f"{'; with a GRU a sample is the sequence of one environment' if self.recurrent_size else ''})"
            )

    @property
    def update_steps(self) -> int:
        """Environment steps of one `update` call."""
        return self.num_envs * self.num_steps

    @property
    def default_steps(self) -> int:
        """About a million, a whole number of updates."""
        return max(1, round(1_000_000 / self.update_steps)) * self.update_steps

    def num_updates(self, steps: int) -> int:
        """Number of iterations in a run of `steps` environment steps; the evaluation is not among them."""
        if steps < self.update_steps or steps % self.update_steps:
            nearest = max(1, round(steps / self.update_steps)) * self.update_steps
            raise ValueError(
                f"steps={steps}: must be a multiple of num_envs * num_steps = {self.update_steps}; use steps={nearest}"
            )
        return steps // self.update_steps

    def vector(self, env: Environment, with_state: bool = False) -> VectorEnvironment:
        """The batch of environments that this learner steps."""
        return rollout.vector_environment(env, self.num_envs, self.num_steps, with_state)
