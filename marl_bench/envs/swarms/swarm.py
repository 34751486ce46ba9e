"""What all swarms share: N agents, vector actions, a fixed horizon."""

from __future__ import annotations

from marl_bench.environment import Environment


class Swarm(Environment):
    """Base of the swarms; a subclass has the static fields `agents` and `horizon`."""

    agents: int
    horizon: int

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        return self.agents

    @property
    def num_actions(self) -> int:
        """0: actions are vectors."""
        return 0

    @property
    def fixed_horizon(self) -> int | None:
        """`horizon`, in steps."""
        return self.horizon
