"""A common pool resource: `common_pool`.

N agents share a stock h in 0 ... H that regrows by what is left of it. Every round all ask for an amount at once; if they ask
for more than there is, it is rationed. Then the stock collapses if less than `collapse` is left, else it grows. Rules and
source: `rules`.

| | content |
|---|---|
| action | units: 0 ... H, the request itself; coarse: 0 ... 20 for 0, 2 ... 40; continuous: [N, 1] in 0 ... H; out of range: clipped |
| agents_view | [N, 1 + N + extras] float32: h/H, own last catch / H, the others' last catches / H (index order, starting after me); then round / horizon with `observe_round`, sustainable share / H with `observe_share` |
| reward | `reward_scale` times the own catch |
| ends | terminated by collapse; truncated after `horizon` rounds |
| metrics | `stock`, `total_catch`, `over_use`, `collapsed` |
| extras | `caught` [N] float32; `cooperations`, `defections` [N] bool: requests up to, and above, the sustainable share |
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
from marl_bench.envs.common_pool import rules, scripted, viewer
from marl_bench.random import words

REQUESTS = ("units", "coarse", "continuous")
_COARSE_STEP, _COARSE_ACTIONS = 2, 21
_CAP, _ALLOCATION, _GROWTH = 0, 1, 2


@struct.dataclass
class State:
    """State of the common pool.

    Attributes:
      stock: [] float32 in 0 ... H.
      cap: [] float32, largest stock of this episode; agents do not see it.
      last_caught: [N] float32, catches of the last round.
      last_share: [] float32, sustainable share of the last round; H at the reset.
      broken: [] bool, somebody has caught more than the share in an earlier round.
      step_count: [] int32, rounds played.
      key: [] typed PRNG key of the episode, draws are numbered by the round; None if nothing is random.
    """

    stock: jax.Array
    cap: jax.Array
    last_caught: jax.Array
    last_share: jax.Array
    broken: jax.Array
    step_count: jax.Array
    key: jax.Array | None


@struct.dataclass
class CommonPool(Environment):
    """The common pool; action, observation, reward, metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    players: int = field(5, static=True, doc="number of agents N; >= 2", unit="agents")
    capacity: int = field(100, static=True, doc="H, largest stock, and the stock at the start; >= 2", unit="units")
    requests: str = field("units", static=True, doc=f"action space: {', '.join(REQUESTS)}")
    allocation: str = field(
        "proportional_real",
        static=True,
        doc="rationing: proportional_real (no rounding), proportional (whole units), stochastic (unit by unit, by lot)",
    )
    growth: str = field("doubling", static=True, doc=f"form of regrowth: {', '.join(rules.GROWTHS)}")
    growth_rate: float = field(1.0, doc="growth of a small stock per round; 1 with doubling doubles it; >= 0")
    allee_threshold: float = field(20.0, doc="stock below which it shrinks (growth='allee'); > 0", unit="units")
    collapse: float = field(5.0, doc="less than this left after the catch is the end; in [0, H]", unit="units")
    growth_noise: float | None = field(
        None, doc="regrowth is multiplied by a uniform factor in 1 -+ this, in [0, 1]; None: exact"
    )
    shock_probability: float | None = field(
        None, doc="probability that a round ends with a shock, in [0, 1]; None: no shocks", unit="probability"
    )
    shock_size: float = field(0.3, doc="fraction of the stock that a shock destroys, in [0, 1]")
    cap_spread: float | None = field(
        None, doc="the largest stock is drawn per episode, uniform in H (1 - this) ... H; in [0, 1); None: H"
    )
    newcomer_round: int | None = field(
        None,
        static=True,
        doc="round (from 0) at which a greedy newcomer, asking for h / N, takes the last agent's place; None: never",
    )
    reward_scale: float = field(1.0, doc="reward of one unit caught; the original's analyses also use 1/10")
    observe_round: bool = field(False, static=True, doc="show the fraction of rounds played")
    observe_share: bool = field(False, static=True, doc="show the sustainable share ('universalisation')")
    horizon: int = field(12, static=True, doc="rounds after which the episode is truncated; >= 1", unit="rounds")
    skin: str = field("fishery", static=True, doc=f"colours of the picture: {', '.join(viewer.SKINS)}")

    def __post_init__(self) -> None:
        check_integer(self, "players", 2)
        check_integer(self, "capacity", 2, 10_000)
        check_integer(self, "horizon", 1)
        check_choice(self, "requests", REQUESTS)
        check_choice(self, "allocation", rules.ALLOCATIONS)
        check_choice(self, "growth", rules.GROWTHS)
        check_choice(self, "skin", tuple(viewer.SKINS))
        check_range(self, "growth_rate", 0.0)
        check_range(self, "collapse", 0.0, self.capacity)
        check_range(self, "allee_threshold", 0.0, open_low=True)
        for name in ("growth_noise", "shock_probability", "shock_size"):
            check_range(self, name, 0.0, 1.0)
        check_range(self, "cap_spread", 0.0, 1.0, open_high=True)
        check_range(self, "reward_scale")
        if self.newcomer_round is not None:
            check_integer(self, "newcomer_round", 0, self.horizon - 1)
        if self.requests == "continuous" and self.allocation != "proportional_real":
            raise ValueError(
                f"allocation={self.allocation!r} hands out whole units: with requests='continuous' use "
                "'proportional_real' (fields of CommonPool)"
            )

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        return self.players

    @property
    def num_actions(self) -> int:
        """H + 1 (units), 21 (coarse) or 0 (continuous)."""
        return {"units": self.capacity + 1, "coarse": _COARSE_ACTIONS, "continuous": 0}[self.requests]

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(1 + N + number of hints,)."""
        return (1 + self.players + self.observe_round + self.observe_share,)

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """`ObservationSpec` whose views lie in [0, 1]."""
        spec = super().observation_spec
        shape = (self.players, *self.observation_shape)
        view = specs.BoundedArray(shape, np.float32, "agents_view", 0.0, 1.0)
        return specs.ObservationSpec(view, spec.action_mask, spec.step_count)

    @property
    def action_spec(self) -> Any:
        """[N] int32, or [N, 1] float32 in 0 ... H with continuous requests."""
        if self.requests == "continuous":
            return specs.BoundedArray((self.players, 1), np.float32, "action", 0.0, float(self.capacity))
        return super().action_spec

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "stock": "units at the end of the round, after growth",
            "total_catch": "units caught by all agents in this round",
            "over_use": "fraction of requests above the sustainable share",
            "collapsed": "1 if the stock collapsed in this round",
        }

    # --- dynamics --------------------------------------------------------------------------------

    @property
    def _random(self) -> bool:
        noisy = self.growth_noise is not None or self.shock_probability is not None
        return noisy or self.allocation != "proportional_real"

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Fill the pool. `key`: [] typed PRNG key."""
        cap = jnp.float32(self.capacity)
        if self.cap_spread is not None:
            cap = cap * (1 - self.cap_spread * rules.uniform(words(key, jnp.int32(0), _CAP, 1))[0])
        state = State(
            stock=cap,
            cap=cap,
            last_caught=jnp.zeros(self.players, jnp.float32),
            last_share=jnp.float32(self.capacity),
            broken=jnp.asarray(False),
            step_count=jnp.zeros((), jnp.int32),
            key=key if self._random else None,
        )
        return state, self._with_extras(self.restart(self._observation(state), self._metrics(state)), state.last_caught)

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """Play one round. `actions`: [N] integers, or [N, 1] floats; clipped to the action space."""
        wanted = self._wanted(state, actions)
        share = rules.sustainable_share(state.stock, self.players)
        exceeded = rules.over_use(wanted, share)
        caught = self._allocate(state, wanted)
        left = jnp.maximum(state.stock - jnp.sum(caught), 0.0)
        if self.allocation == "proportional_real":
            # Where more is wanted than there is, nothing is left: a difference of sums would leave a rounding error.
            left = jnp.where(jnp.sum(wanted) >= state.stock, 0.0, left)
        collapsed = left < self.collapse
        state = State(
            stock=jnp.where(collapsed, left, self._regrown(state, left)),
            cap=state.cap,
            last_caught=caught,
            last_share=share,
            broken=state.broken | jnp.any(caught > share),
            step_count=state.step_count + 1,
            key=state.key,
        )
        metrics = self._metrics(state, jnp.mean(exceeded), collapsed)
        truncated = state.step_count >= self.horizon
        reward = self.reward_scale * caught
        timestep = self.transition(reward, self._observation(state), collapsed, truncated, metrics)
        return state, self._with_extras(timestep, caught, exceeded)

    def _wanted(self, state: State, actions: jax.Array) -> jax.Array:
        """[N] float32 requests in 0 ... H; the newcomer's replaces the last agent's."""
        if self.requests == "continuous":
            wanted = jnp.clip(actions[:, 0].astype(jnp.float32), 0.0, self.capacity)
        else:
            step = _COARSE_STEP if self.requests == "coarse" else 1
            wanted = jnp.clip(actions, 0, self.num_actions - 1).astype(jnp.float32) * step
        if self.newcomer_round is None:
            return wanted
        greedy = state.stock / self.players
        greedy = greedy if self.requests == "continuous" else jnp.floor(greedy)
        replaced = (np.arange(self.players) == self.players - 1) & (state.step_count >= self.newcomer_round)
        return jnp.where(replaced, greedy, wanted)

    def _draws(self, state: State, stream: int, num: int) -> jax.Array:
        assert state.key is not None
        return rules.uniform(words(state.key, state.step_count, stream, num))

    def _allocate(self, state: State, wanted: jax.Array) -> jax.Array:
        if self.allocation == "proportional_real":
            return rules.share_real(wanted, state.stock)
        if self.allocation == "proportional":
            return rules.share_whole(wanted, state.stock, self._draws(state, _ALLOCATION, self.players))
        return rules.share_by_lot(wanted, state.stock, self._draws(state, _ALLOCATION, self.capacity))

    def _regrown(self, state: State, left: jax.Array) -> jax.Array:
        stock = rules.grow(left, state.cap, self.growth, self.growth_rate, self.allee_threshold)
        if self.growth_noise is None and self.shock_probability is None:
            return stock
        noise, shock = self._draws(state, _GROWTH, 2)
        if self.growth_noise is not None:
            stock = left + (stock - left) * (1 + self.growth_noise * (2 * noise - 1))
        if self.shock_probability is not None:
            stock = jnp.where(shock < self.shock_probability, stock * (1 - self.shock_size), stock)
        return jnp.clip(stock, 0.0, state.cap)

    # --- views -----------------------------------------------------------------------------------

    def _observation(self, state: State) -> Any:
        size = np.float32(self.capacity)
        place = (np.arange(self.players)[:, None] + np.arange(self.players)) % self.players
        catches = state.last_caught[place]
        parts = [jnp.broadcast_to(state.stock / size, (self.players, 1)), catches / size]
        if self.observe_round:
            played = state.step_count.astype(jnp.float32) / np.float32(self.horizon)
            parts.append(jnp.broadcast_to(played, (self.players, 1)))
        if self.observe_share:
            share = rules.sustainable_share(state.stock, self.players) / size
            parts.append(jnp.broadcast_to(share, (self.players, 1)))
        # A quotient may be rounded above 1 when it is compiled to a product.
        return self.observe_view(jnp.minimum(jnp.concatenate(parts, axis=1), 1.0), state.step_count)

    def _metrics(self, state: State, over_use: Any = 0.0, collapsed: Any = False) -> dict[str, Any]:
        total = jnp.sum(state.last_caught)
        return {"stock": state.stock, "total_catch": total, "over_use": over_use, "collapsed": collapsed}

    def _with_extras(self, timestep: TimeStep, caught: jax.Array, exceeded: jax.Array | None = None) -> TimeStep:
        none = jnp.zeros(self.players, bool)
        events = (none, none) if exceeded is None else (~exceeded, exceeded)
        extras = {**timestep.extras, "caught": caught, "cooperations": events[0], "defections": events[1]}
        return timestep.replace(extras=extras)  # pyright: ignore[reportAttributeAccessIssue]

    def global_state(self, state: State) -> jax.Array:
        """[3 + N] float32: stock / H, largest stock / H, fraction of rounds played, last catches / H."""
        played = state.step_count.astype(jnp.float32) / np.float32(self.horizon)
        size = np.float32(self.capacity)
        return jnp.concatenate([jnp.stack([state.stock / size, state.cap / size, played]), state.last_caught / size])

    def render(self, state: State) -> np.ndarray:
        """uint8 [160, 96 + 32 N, 3]: the stock as a filled tank, last catches as bars."""
        return viewer.render(state, self.capacity, self.skin)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`sustainable` (= `cooperate`), `greedy` (= `defect`), `planner`, `grim`, `punisher`; see `scripted`."""

        def policy_of(amounts: Any) -> ScriptedPolicy:
            return lambda state, observation, key: self._actions_for(amounts(state, self.horizon))

        return {name: policy_of(amounts) for name, amounts in scripted.AMOUNTS.items()}

    def _actions_for(self, amounts: jax.Array) -> jax.Array:
        """Actions whose requests are the wanted amounts [N], rounded down to what the action space offers."""
        if self.requests == "continuous":
            return amounts[:, None]
        step = _COARSE_STEP if self.requests == "coarse" else 1
        return jnp.clip(jnp.floor(amounts / step), 0, self.num_actions - 1).astype(jnp.int32)
