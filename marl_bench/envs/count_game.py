"""Base of dilemmas of n agents in which a payoff depends on the own action and on how many cooperate.

With K cooperators nothing has size 2^N, so hundreds of agents are cheap. Subclasses write `outcome` and their fields.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.environment import ScriptedPolicy
from marl_bench.envs import matrix_scripted
from marl_bench.envs.matrix_game import MAX_CODES, GameState, RepeatedGame
from marl_bench.envs.matrix_render import render_contributions


class CountGame(RepeatedGame):
    """A game of n agents with two actions whose payoffs depend on the number K of agents that play 0.

    Observation (float32 [4]): start flag, own last action was 0, own last action was 1, fraction of the others that
    played 0.
    """

    players: int

    def outcome(self, action: jax.Array, contributors: Any) -> jax.Array:
        """[...] float32 payoff of an agent that played `action` [...] when K = `contributors` [...] played 0."""
        raise NotImplementedError(f"{type(self).__name__} must define outcome")

    @property
    def choices(self) -> tuple[int, ...]:
        """Two actions for each agent."""
        return (2,) * self.players

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(4,)."""
        return (4,)

    def payoffs(self, actions: jax.Array) -> jax.Array:
        """[N] float32 payoffs of the joint action [N] (legal integers)."""
        return self.outcome(actions, jnp.sum(actions == 0))

    def view(self, last_action: jax.Array) -> jax.Array:
        """[N, 4] float32 views after joint action [N] (-1: none yet)."""
        contributed, defected = last_action == 0, last_action == 1
        others = jnp.sum(contributed) - contributed
        slots = (last_action < 0, contributed, defected, self._fractions()[others])
        return jnp.stack([jnp.asarray(slot, jnp.float32) for slot in slots], axis=1)

    def _fractions(self) -> jax.Array:
        """[N] fraction for each number of contributing others; a table, so that jit cannot round it differently."""
        return jnp.asarray(np.arange(self.players, dtype=np.float32) / np.float32(self.players - 1))

    def global_state(self, state: GameState) -> jax.Array:
        """[1 + N] float32: start flag, then whether each agent contributed."""
        start = jnp.asarray(state.last_action[:1] < 0, jnp.float32)
        return jnp.concatenate([start, jnp.asarray(state.last_action == 0, jnp.float32)])

    def render(self, state: GameState) -> np.ndarray:
        """uint8 [H, W, 3]: one column an agent, last action above and payoff below."""
        started = state.last_action[0] >= 0
        payoffs = jnp.where(started, self.payoffs(state.last_action), 0.0)
        return render_contributions(np.asarray(state.last_action), np.asarray(payoffs))

    @property
    def num_codes(self) -> int | None:
        """1 + 2N distinct views (start; own action and contributing others); None if a uint8 cannot hold them."""
        size = 1 + 2 * self.players
        return size if size <= MAX_CODES else None

    def code_observations(self) -> np.ndarray:
        """[K, 4] float32: the view that each code stands for."""
        fractions = np.arange(self.players, dtype=np.float32) / np.float32(self.players - 1)
        views = np.zeros((1 + 2 * self.players, 4), np.float32)
        views[0, 0] = 1
        views[1 : 1 + self.players, 1] = 1
        views[1 + self.players :, 2] = 1
        views[1:, 3] = np.tile(fractions, 2)
        return views

    def observation_code(self, state: GameState) -> jax.Array:
        """[N] uint8: 0 at the start, else 1 + own action * N + number of contributing others."""
        contributed = state.last_action == 0
        others = jnp.sum(contributed) - contributed
        codes = 1 + state.last_action.astype(jnp.int32) * self.players + others
        return jnp.where(state.last_action < 0, 0, codes).astype(jnp.uint8)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate`: everybody plays 0; `defect`: everybody plays 1."""
        return {
            "cooperate": matrix_scripted.constant(self.players, 0),
            "defect": matrix_scripted.constant(self.players, 1),
        }

    def code_outcome(self, code: jax.Array, agent: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Last action and reward from the code seen after the step; meaningless for the start's code.

        Args:
          code: [...] integers below `num_codes`. agent: [...] int32, same shape; all agents are alike.
        Returns:
          action: [...] int32, reward: [...] float32.
        """
        del agent
        played = jnp.maximum(jnp.asarray(code, jnp.int32) - 1, 0)
        action, others = played // self.players, played % self.players
        return action, self.outcome(action, others + (action == 0))
