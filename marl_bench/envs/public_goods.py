"""Public goods: n agents contribute or free-ride, one-shot or repeated.

With c_i = 1 if agent i contributes (action 0) and K = sum of c_i, agent i receives

    endowment - cost * c_i * (1 - refund * [K < threshold]) + cost * (multiplier / N) * K ** exponent + bonus * [K >= threshold]

With exponent 1 and no bonus this is the linear game (Ledyard 1995): free-riding is
dominant iff multiplier < N, and a social dilemma iff 1 < multiplier < N. Multiplier 0 with a bonus is the threshold
game (refund 1: with a money-back guarantee), and with threshold 1 the volunteer's dilemma (Diekmann 1985). Graded
contributions, punishment and unequal agents are in `continuous_dilemma`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.environment import check_integer, check_range, field
from marl_bench.envs.count_game import CountGame


@struct.dataclass
class PublicGoods(CountGame):
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
    cost: float = field(1.0, doc="what one contribution costs; >= 0", unit="payoff")
    refund: float = field(0.0, doc="part of the cost that contributors get back if K < threshold, in [0, 1]")

    def __post_init__(self) -> None:
        check_integer(self, "players", 2)
        check_range(self, "multiplier", 0.0)
        check_range(self, "endowment")
        check_range(self, "exponent", 0.0, open_low=True)
        check_range(self, "threshold", 0.0)
        check_range(self, "bonus")
        check_range(self, "cost", 0.0)
        check_range(self, "refund", 0.0, 1.0)
        self._check_ending()

    def outcome(self, action: jax.Array, contributors: Any) -> jax.Array:
        """[...] float32 payoff of an agent that played `action` [...] when K = `contributors` [...] contributed."""
        cost = jnp.asarray(self.cost, jnp.float32)
        share = cost * self.multiplier / self.players
        total = jnp.asarray(contributors, jnp.float32)
        reached = total >= self.threshold
        bonus = jnp.where(reached, jnp.float32(self.bonus), jnp.float32(0))
        paid = jnp.where(reached, cost, cost * (1 - jnp.asarray(self.refund, jnp.float32)))
        return self.endowment - paid * (action == 0) + share * total**self.exponent + bonus
