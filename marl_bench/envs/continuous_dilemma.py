"""Dilemmas of n agents with graded actions, unequal agents and a punishment stage: `continuous_dilemma`.

Agent i chooses a share a_i in [0, 1], then optionally pays to punish others. With e_i its endowment and r_j the productivity of
agent j, it receives

| game | payoff of the first stage |
|---|---|
| public_goods | (1 - a_i) e_i + (1/N) sum_j r_j a_j e_j |
| commons | u_i (1 - sum_j u_j / (N U)), use u_i = a_i e_i, U = the mean endowment |

and in the punishment stage -punish_cost * (points given) - punish_effect * (points received). Sources: Ledyard 1995 (linear public
goods); Hauser et al. 2019 (unequal endowments and productivities); Fehr & Gächter 2000 (punishment); Gordon 1954 (commons).

| | content |
|---|---|
| action | [N, 1] share in [0, 1]; with punishment [N, N]: share, then points in [0, 1] for agents i + 1 ... i + N - 1 (mod N); clipped |
| agents_view | [N, 3 + N] float32: start flag, own endowment, own productivity, last shares of i, i + 1 ... (mod N); with punishment [N, 4 + N]: the first entry says that points are due |
| reward | payoff of the stage |
| ends | truncated after `horizon` rounds (each two steps with punishment); terminated if that is one step |
| metrics | `contribution`, `punishment`, `welfare` |
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import (
    Environment,
    ScriptedPolicy,
    TimeStep,
    check_choice,
    check_integer,
    check_range,
    field,
)
from marl_bench.envs import raster

GAMES = ("public_goods", "commons")
_UNEQUAL = ("endowments", "productivities")


@struct.dataclass
class State:
    """State of the continuous dilemma.

    Attributes:
      shares: [N] float32 last shares in [0, 1]; 0 before the first round.
      punishing: [] bool, the next step is a punishment stage.
      step_count: [] int32.
    """

    shares: jax.Array
    punishing: jax.Array
    step_count: jax.Array


def public_goods(shares: jax.Array, endowments: jax.Array, productivities: jax.Array) -> jax.Array:
    """[N] payoffs (1 - a_i) e_i + (1/N) sum_j r_j a_j e_j; all arguments [N]."""
    return (1 - shares) * endowments + jnp.mean(productivities * shares * endowments)


def commons(shares: jax.Array, endowments: jax.Array) -> jax.Array:
    """[N] payoffs u_i (1 - sum_j u_j / sum_j e_j) of uses u_i = a_i e_i; all arguments [N]."""
    uses = shares * endowments
    return uses * (1 - jnp.sum(uses) / jnp.sum(endowments))


def punish(points: jax.Array, cost: Any, effect: Any) -> jax.Array:
    """[N] payoffs of a punishment stage.

    Args:
      points: [N, N - 1], entry [i, k] given by agent i to agent i + 1 + k (mod N).
      cost: [] paid for a point given. effect: [] lost for a point received.
    """
    num_agents = points.shape[0]
    given = jnp.sum(points, axis=1)
    # Agent j receives from agent j - 1 - k what that one gives in slot k.
    giver = (np.arange(num_agents)[:, None] - 1 - np.arange(num_agents - 1)) % num_agents
    received = jnp.sum(points[giver, np.arange(num_agents - 1)], axis=1)
    return -cost * given - effect * received


@struct.dataclass
class ContinuousDilemma(Environment):
    """A dilemma with graded actions; everything stands in the module's docstring.

    Raises:
      ValueError: for a value out of range, or an array of the wrong shape. TypeError: for a value of the wrong type.
    """

    game: str = field("public_goods", static=True, doc=f"payoffs: {', '.join(GAMES)}")
    players: int = field(4, static=True, doc="number of agents N; >= 2", unit="agents")
    multiplier: float = field(1.6, doc="r, productivity of every agent, unless productivities are given; >= 0")
    endowment: float = field(1.0, doc="e, of every agent, unless endowments are given; > 0", unit="payoff")
    endowments: np.ndarray | jax.Array | None = field(None, doc="[N] e_i > 0; None: all alike", unit="payoff")
    productivities: np.ndarray | jax.Array | None = field(None, doc="[N] r_i >= 0; None: all alike")
    punishment: bool = field(False, static=True, doc="every round has a second step in which agents may punish")
    punish_cost: float = field(1.0, doc="gamma, what a point costs the punisher; >= 0", unit="payoff")
    punish_effect: float = field(3.0, doc="beta, what a point costs the punished; >= 0", unit="payoff")
    horizon: int = field(10, static=True, doc="rounds of an episode; >= 1", unit="rounds")

    def __post_init__(self) -> None:
        check_choice(self, "game", GAMES)
        check_integer(self, "players", 2)
        check_integer(self, "horizon", 1)
        check_range(self, "endowment", 0.0, open_low=True)
        for name in ("multiplier", "punish_cost", "punish_effect"):
            check_range(self, name, 0.0)
        if not isinstance(self.punishment, bool):
            raise TypeError(f"punishment={self.punishment!r}: must be True or False (field of ContinuousDilemma)")
        for name in _UNEQUAL:
            object.__setattr__(self, name, self._checked(name))

    def _checked(self, name: str) -> Any:
        """The field as float32 [N] if the host can read it; tracers and placeholders pass."""
        value = getattr(self, name)
        if not isinstance(value, (list, tuple, np.ndarray)):
            return value
        numbers = np.asarray(value, np.float32)
        if numbers.shape[-1:] != (self.players,) or not np.isfinite(numbers).all() or numbers.min() < 0:
            raise ValueError(
                f"{name}={value!r}: must be {self.players} finite numbers >= 0, one an agent (field of ContinuousDilemma)"
            )
        if name == "endowments" and numbers.min() == 0:
            raise ValueError("endowments: every entry must be > 0 (field of ContinuousDilemma)")
        return numbers

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        return self.players

    @property
    def num_actions(self) -> int:
        """0: actions are continuous."""
        return 0

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(3 + N,), or (4 + N,) with punishment."""
        return (3 + self.players + self.punishment,)

    @property
    def action_spec(self) -> specs.BoundedArray:
        """[N, 1] float32 in [0, 1], or [N, N] with punishment."""
        width = self.players if self.punishment else 1
        return specs.BoundedArray((self.players, width), np.float32, "action", 0.0, 1.0)

    @property
    def fixed_horizon(self) -> int:
        """Steps of an episode."""
        return self.horizon * (2 if self.punishment else 1)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "contribution": "mean share chosen in this step, in [0, 1]; 0 in a punishment stage",
            "punishment": "points given per agent in this step",
            "welfare": "mean payoff of this step",
        }

    # --- dynamics --------------------------------------------------------------------------------

    def _per_agent(self, numbers: Any, single: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(single if numbers is None else numbers, jnp.float32), (self.players,))

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Start an episode; nothing is random, so `key` is not used."""
        del key
        zeros = jnp.zeros(self.players, jnp.float32)
        state = State(shares=zeros, punishing=jnp.asarray(False), step_count=jnp.zeros((), jnp.int32))
        metrics = {"contribution": 0.0, "punishment": 0.0, "welfare": 0.0}
        return state, self.restart(self._observation(state), metrics)

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """One stage. `actions`: [N, 1] or [N, N] floats, clipped to [0, 1]."""
        actions = jnp.clip(actions.astype(jnp.float32), 0.0, 1.0)
        endowments = self._per_agent(self.endowments, self.endowment)
        shares = actions[:, 0]
        if self.game == "commons":
            reward = commons(shares, endowments)
        else:
            reward = public_goods(shares, endowments, self._per_agent(self.productivities, self.multiplier))
        contribution, points = jnp.mean(shares), jnp.zeros(())
        if self.punishment:
            reward = jnp.where(state.punishing, punish(actions[:, 1:], self.punish_cost, self.punish_effect), reward)
            points = jnp.where(state.punishing, jnp.mean(jnp.sum(actions[:, 1:], axis=1)), 0.0)
            contribution = jnp.where(state.punishing, 0.0, contribution)
            shares = jnp.where(state.punishing, state.shares, shares)
        state = State(shares, ~state.punishing if self.punishment else state.punishing, state.step_count + 1)
        at_end = state.step_count >= self.fixed_horizon
        ends = {"terminated": at_end} if self.fixed_horizon == 1 else {"truncated": at_end}
        metrics = {"contribution": contribution, "punishment": points, "welfare": jnp.mean(reward)}
        return state, self.transition(reward, self._observation(state), metrics=metrics, **ends)

    def _observation(self, state: State) -> Any:
        start = jnp.broadcast_to((state.step_count == 0).astype(jnp.float32), (self.players,))
        endowments = self._per_agent(self.endowments, self.endowment)
        productivities = self._per_agent(self.productivities, self.multiplier)
        columns = [start, endowments, productivities]
        if self.punishment:
            columns.insert(0, jnp.broadcast_to(state.punishing.astype(jnp.float32), (self.players,)))
        around = (np.arange(self.players)[:, None] + np.arange(self.players)) % self.players
        view = jnp.concatenate([jnp.stack(columns, axis=1), state.shares[around]], axis=1)
        return self.observe_view(view, state.step_count)

    def global_state(self, state: State) -> jax.Array:
        """[2 + N] float32: start flag, whether points are due, last shares."""
        flags = jnp.stack([state.step_count == 0, state.punishing]).astype(jnp.float32)
        return jnp.concatenate([flags, state.shares])

    def render(self, state: State) -> np.ndarray:
        """uint8 [120, 40 N, 3]: one bar an agent, its last share of the full height."""
        shares = np.asarray(state.shares)
        picture = raster.canvas(120, 40 * self.players, raster.FLOOR)
        for agent, share in enumerate(shares):
            height = 120 * float(share)
            raster.rectangle(picture, 120 - height, 40 * agent + 4, height, 32, raster.agent_colour(agent))
        return picture

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` and `defect` (public goods: all, nothing; commons: the optimum 1/2, the equilibrium N/(N + 1) of equal
        agents) without punishing; `punisher` cooperates and gives one point to everybody who
        was worse than itself."""
        commons_game = self.game == "commons"
        cooperate, defect = (0.5, self.players / (self.players + 1)) if commons_game else (1.0, 0.0)
        shape = self.action_spec.shape

        def constant(share: float) -> ScriptedPolicy:
            return lambda state, observation, key: jnp.zeros(shape, jnp.float32).at[:, 0].set(share)

        def punisher(state: State, observation: Any, key: jax.Array) -> jax.Array:
            del observation, key
            around = (np.arange(self.players)[:, None] + np.arange(1, self.players)) % self.players
            others, own = state.shares[around], state.shares[:, None]
            blamed = others > own if commons_game else others < own
            return jnp.concatenate([jnp.full((self.players, 1), cooperate), blamed.astype(jnp.float32)], axis=1)

        policies = {"cooperate": constant(cooperate), "defect": constant(defect)}
        return {**policies, "punisher": punisher} if self.punishment else policies
