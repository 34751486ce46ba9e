"""The two-step game: a cooperative game of two agents that an additive mixer gets wrong.

Rules (Rashid et al. 2018, QMIX, section 5.1): in the first step agent 0 picks a branch, agent 1's action is ignored, and
nobody is paid. In the second step the joint action pays both agents: 7 whatever they do in branch A, and
[[0, 1], [1, 8]] in branch B. The best return is 8; learners that represent the value as a sum over agents choose branch A.

| | content |
|---|---|
| action | 0 or 1; out of range: clipped |
| agents_view | [2, 3] float32: one-hot of start, branch A (action 0), branch B (action 1); after the second step as before it |
| reward | the same for both agents, 0 in the first step |
| ends | terminated after the second step |
| metrics | `took_risk`: agent 0 chose branch B; `team_reward` |
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import Environment, ScriptedPolicy, TimeStep, check_range, field
from marl_bench.envs import raster
from marl_bench.envs.matrix_render import render_payoffs

RISKY = np.array([[0.0, 1.0], [1.0, 8.0]], np.float32)
"""[2, 2] payoffs of branch B, row = agent 0."""


@struct.dataclass
class State:
    """State of the two-step game.

    Attributes:
      branch: [] int8: 0 at the start, 1 in branch A, 2 in branch B.
      step_count: [] int32.
    """

    branch: jax.Array
    step_count: jax.Array


@struct.dataclass
class TwoStep(Environment):
    """The two-step game; rules, observation, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for a payoff that is not finite. TypeError: for a value of the wrong type.
    """

    safe_payoff: float = field(7.0, doc="what branch A pays for every joint action", unit="reward")
    risky_scale: float = field(1.0, doc="factor on branch B's payoffs [[0, 1], [1, 8]]")

    def __post_init__(self) -> None:
        check_range(self, "safe_payoff")
        check_range(self, "risky_scale")

    @property
    def common_reward(self) -> bool:
        """True."""
        return True

    @property
    def num_agents(self) -> int:
        """Two."""
        return 2

    @property
    def num_actions(self) -> int:
        """Two."""
        return 2

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(3,)."""
        return (3,)

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """`ObservationSpec` whose views lie in [0, 1]."""
        spec = super().observation_spec
        view = specs.BoundedArray((2, 3), np.float32, "agents_view", 0.0, 1.0)
        return specs.ObservationSpec(view, spec.action_mask, spec.step_count)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning of the metrics."""
        return {
            "took_risk": "1 after agent 0 has chosen branch B, else 0",
            "team_reward": "reward that each agent received in this step",
        }

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Start an episode; nothing is random, so `key` is not used."""
        del key
        state = State(branch=jnp.zeros((), jnp.int8), step_count=jnp.zeros((), jnp.int32))
        return state, self.restart(self._observation(state), {"took_risk": 0.0, "team_reward": 0.0})

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """Play one joint action. `actions`: [2] integers, clipped to {0, 1}."""
        row, column = jnp.clip(actions, 0, 1)
        second = state.branch > 0
        risky = self.risky_scale * jnp.asarray(RISKY)[row, column]
        team = jnp.where(second, jnp.where(state.branch == 1, self.safe_payoff, risky), 0.0)
        branch = jnp.where(second, state.branch, 1 + row).astype(jnp.int8)
        state = State(branch=branch, step_count=state.step_count + 1)
        metrics = {"took_risk": branch == 2, "team_reward": team}
        reward = jnp.broadcast_to(team, (2,))
        return state, self.transition(reward, self._observation(state), terminated=second, metrics=metrics)

    def _observation(self, state: State) -> Any:
        return self.observe_view(jnp.broadcast_to(self.global_state(state), (2, 3)), state.step_count)

    def global_state(self, state: State) -> jax.Array:
        """[3] float32 one-hot of start, branch A, branch B: what every agent sees."""
        return (state.branch == jnp.arange(3)).astype(jnp.float32)

    def render(self, state: State) -> np.ndarray:
        """uint8 [H, W, 3]: payoffs of branch A left, of branch B right; the branch that is played is framed."""
        safe = np.full((2, 2, 2), self.safe_payoff, np.float32)
        both = np.concatenate([safe, self.risky_scale * np.stack([RISKY, RISKY])], axis=2)
        picture = render_payoffs(both, np.full(2, -1))
        height, width = picture.shape[0], picture.shape[1] // 2
        branch = int(state.branch)
        if branch:
            raster.frame(picture, 0, (branch - 1) * width, height, width, raster.YELLOW, 4)
        return picture

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`risky` plays branch B and (1, 1) for 8, the best; `safe` plays branch A for 7."""

        def fixed(action: int) -> ScriptedPolicy:
            return lambda state, observation, key: jnp.full(2, action, jnp.int32)

        return {"risky": fixed(1), "safe": fixed(0)}
