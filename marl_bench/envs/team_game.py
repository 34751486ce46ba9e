"""Cooperative games of n agents whose common payoff depends on how many play each action: matching and climbing.

`matching` pays 1 if all agents play the same action, else 0. `climbing` extends the game of Claus & Boutilier 1998 from
two agents to n; it is a reconstruction, made so that n = 2 is exactly the original and the pure equilibria stay all-0 and
all-1 (all-2 is none, because agent 0 would move to 1):

| joint action | payoff |
|---|---|
| all play 0, all play 1, all play 2 | 11, 7, 5 |
| somebody plays 0 and somebody plays 1 | -30 |
| only 0 and 2 are played | 0 |
| only 1 and 2 are played | 6 if agent 0 plays 1, else 0 |

Uniform play finds the optimum with probability A^(1-n) (matching) or 3^-n (climbing): a test of scaling. Nothing has
size A^n.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import ScriptedPolicy, check_choice, check_integer, check_range, field
from marl_bench.envs import matrix_scripted
from marl_bench.envs.matrix_game import GameState, RepeatedGame
from marl_bench.envs.matrix_render import render_actions

GAMES = ("matching", "climbing")


@struct.dataclass
class TeamGame(RepeatedGame):
    """A cooperative game of n agents; rules in the module's docstring.

    Observation (float32): the number 1 with `observe="constant"`; with `observe="counts"` [1 + 2A]: start flag, one-hot of
    the own last action, fraction of the others that played each action. Endings: see `RepeatedGame`.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    game: str = field("matching", static=True, doc=f"rules: {', '.join(GAMES)}")
    players: int = field(3, static=True, doc="number of agents N; >= 2", unit="agents")
    actions: int = field(3, static=True, doc="A, actions of each agent; >= 2 (climbing: 3)", unit="actions")
    observe: str = field("constant", static=True, doc="constant or counts")
    scale: float = field(1.0, doc="factor on every payoff")
    horizon: int | None = field(
        25, static=True, doc="steps: 1 terminates, more truncates, None is endless; >= 1", unit="steps"
    )
    continuation: float | None = field(
        None, doc="probability of going on after each step, in [0, 1]; None: no geometric ending", unit="probability"
    )

    def __post_init__(self) -> None:
        check_choice(self, "game", GAMES)
        check_integer(self, "players", 2)
        check_integer(self, "actions", 2, 127)
        check_choice(self, "observe", ("constant", "counts"))
        check_range(self, "scale")
        if self.game == "climbing" and self.actions != 3:
            raise ValueError(f"actions={self.actions}: game='climbing' has 3 (field of TeamGame)")
        self._check_ending()

    @property
    def choices(self) -> tuple[int, ...]:
        """`actions` for each agent."""
        return (self.actions,) * self.players

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(1,) or (1 + 2A,)."""
        return (1,) if self.observe == "constant" else (1 + 2 * self.actions,)

    def payoffs(self, actions: jax.Array) -> jax.Array:
        """[N] float32 common payoff of the joint action [N]."""
        played = jnp.any(actions[:, None] == jnp.arange(self.actions), axis=0)
        team = jnp.sum(played) == 1 if self.game == "matching" else climbing(played, actions[0] == 1)
        return jnp.broadcast_to(self.scale * jnp.asarray(team, jnp.float32), (self.players,))

    def view(self, last_action: jax.Array) -> jax.Array:
        """[N, O] float32 views after joint action [N] (-1: none yet)."""
        if self.observe == "constant":
            return jnp.ones((self.players, 1), jnp.float32)
        own = (last_action[:, None] == jnp.arange(self.actions)).astype(jnp.float32)
        # A table, so that compilation cannot round a fraction above 1.
        fractions = np.arange(self.players, dtype=np.float32) / np.float32(self.players - 1)
        others = jnp.asarray(fractions)[(own.sum(axis=0) - own).astype(jnp.int32)]
        start = jnp.asarray(last_action[:, None] < 0, jnp.float32)
        return jnp.concatenate([start, own, others], axis=1)

    def global_state(self, state: GameState) -> jax.Array:
        """[1 + N A] float32: start flag, then one-hot of every agent's last action."""
        own = (state.last_action[:, None] == jnp.arange(self.actions)).astype(jnp.float32)
        return jnp.concatenate([jnp.asarray(state.last_action[:1] < 0, jnp.float32), own.reshape(-1)])

    def render(self, state: GameState) -> np.ndarray:
        """uint8 [H, W, 3]: one column an agent with its last action as a colour and a digit."""
        return render_actions(np.asarray(state.last_action))

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`best`: everybody plays 0, the optimum; `second`: everybody plays 1 (the worse equilibrium of climbing)."""
        return {
            "best": matrix_scripted.constant(self.players, 0),
            "second": matrix_scripted.constant(self.players, 1),
        }


def climbing(played: jax.Array, first_plays_one: jax.Array) -> jax.Array:
    """Common payoff of the n-agent climbing game.

    Args:
      played: [3] bool, whether anybody plays each action.
      first_plays_one: [] bool, whether agent 0 plays action 1.
    Returns:
      payoff: [] float32.
    """
    zero, one, two = played
    apart = jnp.where(one, jnp.where(first_plays_one, 6.0, 0.0), 0.0)
    alone = jnp.where(zero, 11.0, jnp.where(one, 7.0, 5.0))
    together = jnp.where(two & (zero | one), apart, alone)
    return jnp.where(zero & one, -30.0, together).astype(jnp.float32)
