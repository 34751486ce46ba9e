"""What all offline learners share: they learn from a data set, and play only to be judged.

`OfflineLearner` has the fields; a learner adds its own, gives other defaults, and writes `init`, `update` and `act`. One `update`
is one gradient update of the paper; nothing is played, so `steps` of a run counts updates.
"""

from __future__ import annotations

import re
from typing import Any

from flax import struct

from marl_bench.algorithms.networked import NetworkLearner, is_discrete, require_global_state
from marl_bench.environment import check_integer, field
from marl_bench.learner import Source


@struct.dataclass
class OfflineLearner(NetworkLearner):
    """Base of the offline learners.

    Raises:
      ValueError: for values out of range. TypeError: for values of the wrong type.
    """

    agent_id: bool = field(True, static=True, doc="append a one-hot agent id to what the network reads")
    activation: str = field("relu", static=True, doc="of the dense layers: relu, tanh")
    evaluation_greedy: bool = field(True, static=True, doc="evaluate the most likely action, not a sampled one")
    batch_size: int = field(128, static=True, doc="episodes or transitions of a gradient step [n]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "batch_size", 1)

    # --- what a learner says of itself --------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name on the command line: words of the class name, as in cfcql_continuous."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", self._kind).lower()

    @property
    def actions(self) -> str:
        """Which actions it chooses: "discrete", "continuous" or "both"."""
        return "both"

    @property
    def counterpart(self) -> str:
        """The learner for the other kind of actions."""
        return "bc"

    # --- protocol ---------------------------------------------------------------------------------

    @property
    def offline(self) -> bool:
        """True."""
        return True

    @property
    def waiting_updates(self) -> int:
        """First updates in which only a model of the data learns."""
        return 0

    @property
    def update_steps(self) -> int:
        """1: a run is counted in updates."""
        return 1

    @property
    def default_steps(self) -> int:
        """Updates of the published protocol."""
        return 2_000

    def num_updates(self, steps: int) -> int:
        """`steps`."""
        if steps < 1:
            raise ValueError(f"steps={steps}: must be at least 1; an offline run is counted in updates")
        if steps <= self.waiting_updates:
            raise ValueError(
                f"behaviour_updates={self.waiting_updates}: nothing that acts learns in these first updates; "
                f"steps={steps} must be more (field of {self._kind})"
            )
        return steps

    def validate(self, environment: Any) -> None:
        """Check that there is a data set, and that its world's views, actions and agents fit this learner."""
        name = self.name
        if not isinstance(environment, Source):
            raise ValueError(
                f"{name} learns from a data set; name one with dataset=PATH (see marl-bench dataset --help)"
            )
        super().validate(environment)
        world = environment.environment
        kind = "discrete" if is_discrete(world) else "continuous"
        if self.actions not in (kind, "both"):
            raise ValueError(
                f"{name} needs {self.actions} actions, {type(world.unwrapped).__name__} has {kind} ones in this data set; "
                f"use learner={self.counterpart}"
            )

    def require_states(self, source: Any, instead: str) -> None:
        """Check that the world and the data set have global states. Raises ValueError naming `instead`, as one would type it."""
        require_global_state(source.environment, self.name, instead)
        if source.statistics.state_mean is None:
            raise ValueError(f"{self.name} needs a global state, this data set has none; use learner={instead}")
