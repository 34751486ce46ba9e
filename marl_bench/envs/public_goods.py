"""Public goods: n agents contribute or free-ride, one-shot or repeated.

With c_i = 1 if agent i contributes (action 0) and K = sum of c_i, agent i receives

    endowment - c_i + (multiplier / N) * K ** exponent + bonus * [K >= threshold]

in units of one contribution. With exponent 1 and no bonus this is the linear game (Ledyard 1995): free-riding is
dominant iff multiplier < N, and a social dilemma iff 1 < multiplier < N. Multiplier 0 with a bonus is the threshold
game, and with threshold 1 the volunteer's dilemma (Diekmann 1985). Graded contributions, punishment stages and
unequal agents are not here.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import check_integer, check_range, field
from marl_bench.envs.matrix_game import MAX_CODES, GameState, RepeatedGame
from marl_bench.envs.matrix_render import render_contributions


@struct.dataclass
class PublicGoods(RepeatedGame):
    """The public-goods game; rules in the module's docstring.

    Observation (float32 [4]):

    | slot | meaning | range |
    | --- | --- | --- |
    | 0 | start of the episode | 0, 1 |
    | 1 | own last action was to contribute | 0, 1 |
    | 2 | own last action was to free-ride | 0, 1 |
    | 3 | fraction of the others that contributed | [0, 1] |

    Actions: 0 contributes, 1 free-rides. Endings: see `RepeatedGame`.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    players: int = field(4, static=True, doc="number of agents N; >= 2", unit="agents")
    multiplier: float = field(1.6, doc="r, what the group receives for one contribution; >= 0", unit="contributions")
    endowment: float = field(1.0, doc="e, what every agent holds at the start of a step", unit="contributions")
    exponent: float = field(1.0, doc="alpha, curvature of the production; > 0 (1: linear)")
    threshold: float = field(1.0, doc="M, contributors needed for the bonus; >= 0; unused if bonus = 0", unit="agents")
    bonus: float = field(0.0, doc="b, what every agent receives if K >= threshold", unit="contributions")
    horizon: int | None = field(
        100, static=True, doc="steps: 1 terminates, more truncates, None is endless; >= 1", unit="steps"
    )
    continuation: float | None = field(
        None, doc="probability of going on after each step, in [0, 1]; None: no geometric ending", unit="probability"
    )

    def __post_init__(self) -> None:
        check_integer(self, "players", 2)
        check_range(self, "multiplier", 0.0)
        check_range(self, "endowment")
        check_range(self, "exponent", 0.0, open_low=True)
        check_range(self, "threshold", 0.0)
        check_range(self, "bonus")
        self._check_ending()

    @property
    def choices(self) -> tuple[int, ...]:
        """Two actions for each agent."""
        return (2,) * self.players

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(4,)."""
        return (4,)

    def outcome(self, action: jax.Array, contributors: Any) -> jax.Array:
        """[...] float32 payoff of an agent that played `action` [...] when K = `contributors` [...] contributed."""
        share = jnp.float32(self.multiplier) / self.players
        total = jnp.asarray(contributors, jnp.float32)
        bonus = jnp.where(total >= self.threshold, jnp.float32(self.bonus), jnp.float32(0))
        return self.endowment - (action == 0) + share * total**self.exponent + bonus

    def payoffs(self, actions: jax.Array) -> jax.Array:
        """[N] float32 payoffs of the joint action [N]."""
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
