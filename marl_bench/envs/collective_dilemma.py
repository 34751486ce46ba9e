"""Dilemmas of n agents beyond public goods: stag hunt, snowdrift, minority.

With c_i = 1 if agent i cooperates (action 0) and K the number of cooperators, agent i receives

| rule | payoff | equilibria |
|---|---|---|
| stag_hunt | benefit * K/N * [K >= threshold] - cost * c_i | all defect; above the threshold benefit/N against cost decides about free-riding |
| snowdrift | benefit * [K >= 1] - cost * c_i / K | mixed, see `closed_forms.collective.snowdrift_equilibrium` |
| minority | benefit if on the strictly smaller side, else 0 | any split as even as it can be |

Sources: Pacheco et al. 2009 (n-player stag hunt); Zheng et al. 2007 and Souza et al. 2009 (n-player snowdrift); Arthur 1994 (El
Farol) and Challet & Zhang 1997 (minority game).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.environment import ScriptedPolicy, check_choice, check_integer, check_range, field
from marl_bench.envs.count_game import CountGame

RULES = ("stag_hunt", "snowdrift", "minority")


@struct.dataclass
class CollectiveDilemma(CountGame):
    """A dilemma of n agents; rules in the module's docstring, observation as in `CountGame`.

    Actions: 0 cooperates (minority: one side), 1 defects (the other side). Endings: see `RepeatedGame`.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    rule: str = field("stag_hunt", static=True, doc=f"payoffs: {', '.join(RULES)}")
    players: int = field(5, static=True, doc="number of agents N; >= 2", unit="agents")
    benefit: float = field(8.0, doc="F or b, see the rules", unit="payoff")
    cost: float = field(1.0, doc="c, what cooperation costs; unused by minority; >= 0", unit="payoff")
    threshold: float = field(
        3.0, doc="M, cooperators that a stag hunt needs; >= 0; unused by the others", unit="agents"
    )
    horizon: int | None = field(
        100, static=True, doc="steps: 1 terminates, more truncates, None is endless; >= 1", unit="steps"
    )
    continuation: float | None = field(
        None, doc="probability of going on after each step, in [0, 1]; None: no geometric ending", unit="probability"
    )

    def __post_init__(self) -> None:
        check_choice(self, "rule", RULES)
        check_integer(self, "players", 2)
        check_range(self, "benefit")
        check_range(self, "cost", 0.0)
        check_range(self, "threshold", 0.0)
        self._check_ending()

    def outcome(self, action: jax.Array, contributors: Any) -> jax.Array:
        """[...] float32 payoff of an agent that played `action` [...] when K = `contributors` [...] cooperated."""
        total = jnp.asarray(contributors, jnp.float32)
        cooperates = action == 0
        benefit = jnp.asarray(self.benefit, jnp.float32)
        if self.rule == "stag_hunt":
            return jnp.where(total >= self.threshold, benefit * total / self.players, 0.0) - self.cost * cooperates
        if self.rule == "snowdrift":
            burden = self.cost * cooperates / jnp.maximum(total, 1.0)
            return jnp.where(total >= 1, benefit, 0.0) - burden
        side = jnp.where(cooperates, total, self.players - total)
        return jnp.where(2 * side < self.players, benefit, 0.0)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` and `defect`; for the minority game first `split`: the lower-numbered half (rounded down) plays 0."""
        policies = super().scripted_policies()
        if self.rule != "minority":
            return policies

        def split(state: Any, observation: Any, key: jax.Array) -> jax.Array:
            del state, observation, key
            # As large a minority as there can be: one less than half if N is even.
            return (jnp.arange(self.players) >= (self.players - 1) // 2).astype(jnp.int32)

        return {"split": split, **policies}
