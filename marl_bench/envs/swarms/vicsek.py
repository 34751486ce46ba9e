"""Moving in one direction: `vicsek`.

N agents fly at constant speed over a flat surface, see the headings of their neighbours relative to their own, and steer. They are
paid, as a team, for flying in one direction. Source: Vicsek et al. 1995 for the classic rule; the controlled task is a
reconstruction (spec swarm_envs.md section 5) of one of Cui, Hauck, Fabian and Koeppl 2024 (arXiv 2307.06175).

| | content |
|---|---|
| action | [N, 1] float32 in [-1, 1] (clipped): turn, times `max_turn`; [N, 2] with `speed_control`, (1 + a) / 2 of the speed |
| agents_view | [N, d] float32 by `sensor` (`sensing`), then with `compass` the own heading's cosine and sine |
| reward | order of the headings minus `action_cost` times the mean |turn|, the same for all; of the state *before* the step |
| ends | truncated after `horizon` steps |
| metrics | `polarisation`, `local_order`, `nematic`, `turn` |
"""

from __future__ import annotations

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import (
    ScriptedPolicy,
    TimeStep,
    check_choice,
    check_integer,
    check_range,
    field,
)
from marl_bench.envs.swarms import scripted, sensing, surfaces, viewer
from marl_bench.envs.swarms.checks import check_flags, check_search, check_softness
from marl_bench.envs.swarms.surfaces import Place
from marl_bench.envs.swarms.swarm import BROADCAST_DOC, BROADCASTS, Swarm
from marl_bench.mean_field import Axis
from marl_bench.random import normal, unit_interval, words

STARTS = ("uniform", "half", "von_mises")
REWARDS = ("polarisation", "misalignment", "nematic", "local")
START, TURNING = 0, 1
"""Streams of random words."""

_GRID = 1024
"""Points of the tabulated distribution function of von Mises starts."""


@struct.dataclass
class State:
    """State of `vicsek`.

    Attributes:
      x, y: [N] float32 chart coordinates. heading: [N] float32 radians in [-pi, pi].
      hand: [N] float32, 1, or -1 after an odd number of mirroring crossings; None unless `handedness` is "carried".
      step_count: [] int32.
      key: [] typed PRNG key of the episode's noise.
    """

    x: jax.Array
    y: jax.Array
    heading: jax.Array
    hand: jax.Array | None
    step_count: jax.Array
    key: jax.Array


@struct.dataclass
class Vicsek(Swarm):
    """Moving in one direction; observation, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    provenance: ClassVar[dict[str, str]] = dict.fromkeys(
        ("radius", "speed", "max_turn", "turn_noise", "action_cost", "horizon", "surface"), "reconstruction"
    )
    """Where the defaults come from; none of them could be read in the paper."""

    agents: int = field(100, static=True, doc="number of agents N; >= 2", unit="agents")
    horizon: int = field(100, static=True, doc="steps after which the episode is truncated [T]; >= 1", unit="steps")
    surface: str = field("torus", static=True, doc=f"where they fly: {', '.join(surfaces.SURFACES)}")
    dynamics: str = field(
        "controlled", static=True, doc="controlled, or classic: the rule of 1995, which ignores actions"
    )
    sensor: str = field("moment", static=True, doc=f"view of the neighbours: {', '.join(sensing.SENSORS)}")
    sectors: int = field(8, static=True, doc="number of sectors of sensor=sectors; >= 2")
    compass: bool = field(False, static=True, doc="append the own heading's cosine and sine to the view")
    speed_control: bool = field(False, static=True, doc="a second action chooses the speed, from 0 to `speed`")
    update: str = field(
        "backward", static=True, doc="fly with the heading before (backward) or after (forward) the turn"
    )
    handedness: str = field(
        "chart", static=True, doc="whose left and right: chart, or carried along through mirroring seams"
    )
    start: str = field("uniform", static=True, doc="headings at the start: uniform, half (of a circle), von_mises")
    reward: str = field("polarisation", static=True, doc="what is paid: polarisation, misalignment, nematic, local")
    reward_on_next: bool = field(False, static=True, doc="pay for the state after the step instead of the one before")
    broadcast: str = field("nothing", static=True, doc=BROADCAST_DOC)
    cells: int | None = field(
        None,
        static=True,
        doc="cells a side of the neighbour search, each at least a radius wide; None compares all pairs",
    )
    side: float = field(1.0, doc="side of the chart [L]; > 0", unit="length")
    radius: float = field(0.25, doc="how far neighbours are seen [R]; > 0, at most half the side", unit="length")
    softness: float | None = field(
        None,
        doc="half the distance over which a neighbour fades out around the radius [tau]; > 0, below the radius; None for a sharp one",
        unit="length",
    )
    speed: float = field(0.075, doc="length of a step [v0]; >= 0, at most the side", unit="length/step")
    max_turn: float = field(0.2, doc="largest turn [omega_max]; > 0", unit="rad/step")
    turn_noise: float = field(0.02, doc="standard deviation of the turn's noise [sigma_phi]; >= 0", unit="rad")
    classic_noise: float = field(1.0, doc="width of the uniform noise of the classic rule [eta]; >= 0", unit="rad")
    action_cost: float = field(0.05, doc="price of turning as fast as possible [c_u]; >= 0", unit="reward")
    concentration: float = field(0.5, doc="concentration of von_mises starts [kappa0]; >= 0")

    def __post_init__(self) -> None:
        check_integer(self, "agents", 2)
        check_integer(self, "horizon", 1)
        check_integer(self, "sectors", 2, 64)
        check_choice(self, "surface", surfaces.SURFACES)
        check_choice(self, "dynamics", ("controlled", "classic"))
        check_choice(self, "sensor", sensing.SENSORS)
        check_choice(self, "update", ("backward", "forward"))
        check_choice(self, "handedness", ("chart", "carried"))
        check_choice(self, "start", STARTS)
        check_choice(self, "reward", REWARDS)
        check_choice(self, "broadcast", BROADCASTS)
        check_flags(self, "compass", "speed_control", "reward_on_next")
        if self.dynamics == "classic" and (self.speed_control or self.update == "forward"):
            name = "speed_control" if self.speed_control else "update"
            raise ValueError(
                f"{name}={getattr(self, name)!r}: the classic rule ignores actions and flies with the heading before the turn "
                "(field of Vicsek)"
            )
        for name in ("side", "radius", "max_turn"):
            check_range(self, name, 0.0, open_low=True)
        for name in ("speed", "turn_noise", "classic_noise", "action_cost", "concentration"):
            check_range(self, name, 0.0)
        check_search(self)
        check_softness(self)
        if self.dynamics == "classic" and self.softness is not None:
            raise ValueError(
                f"softness={self.softness!r}: the classic rule has a sharp radius; use softness=None (field of Vicsek)"
            )

    # --- sizes and specs -------------------------------------------------------------------------

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(d,), with `broadcast` to the views (d + K,)."""
        return (sensing.size(self.sensor, self.sectors) + 2 * self.compass + self.told_size,)

    @property
    def action_spec(self) -> specs.BoundedArray:
        """[N, 1] float32 in [-1, 1]; [N, 2] with `speed_control`."""
        return specs.BoundedArray((self.agents, 1 + self.speed_control), np.float32, "action", -1.0, 1.0)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "polarisation": "length of the mean heading vector after the step, 0 ... 1",
            "local_order": "mean over agents of the length of their neighbours' mean relative heading, 0 ... 1",
            "nematic": "length of the mean of doubled headings, 0 ... 1: order up to reversal",
            "turn": "mean |turn| that was chosen, as a share of max_turn; 0 with the classic rule",
        }

    # --- episode ---------------------------------------------------------------------------------

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Draw places and headings. `key`: [] typed PRNG key."""
        x, y, share = unit_interval(words(key, jnp.int32(0), START, 3 * self.agents)).reshape(3, -1)
        hand = jnp.ones(self.agents) if self.handedness == "carried" else None
        state = State(x * self.side, y * self.side, self._start_heading(share), hand, jnp.int32(0), key)
        view = self.view(state)
        return state, self.restart(
            self.observe_view(self.told(state, view), state.step_count), self._metrics(state, view, jnp.float32(0))
        )

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """Everybody turns and flies at once. `actions`: [N, 1] or [N, 2] floats, clipped to [-1, 1]."""
        actions = jnp.clip(actions.astype(jnp.float32), -1, 1)
        following = self.moved(state, actions, words(state.key, state.step_count, TURNING, self.agents))
        view = self.view(following)
        # The classic rule ignores actions, so nobody pays for them.
        turn = jnp.mean(jnp.abs(actions[:, 0])) * (self.dynamics == "controlled")
        paid = self.order(following, view) if self.reward_on_next else self.order(state, None)
        timestep = self.transition(
            jnp.broadcast_to(paid - self.action_cost * turn, (self.agents,)),
            self.observe_view(self.told(following, view), following.step_count),
            truncated=following.step_count >= self.horizon,
            metrics=self._metrics(following, view, turn),
        )
        return following, timestep

    def moved(self, state: State, actions: jax.Array, drawn: jax.Array) -> State:
        """The state one step later. `actions`: [N, 1 or 2] in [-1, 1]; `drawn`: [N] uint32 words of the noise."""
        if self.dynamics == "classic":
            cos, sin = self._mean_of_neighbours(state)
            turn = jnp.arctan2(sin, cos) + self.classic_noise * (unit_interval(drawn) - np.float32(0.5))
        else:
            hand = 1.0 if state.hand is None else state.hand
            turn = hand * self.max_turn * actions[:, 0] + self.turn_noise * normal(drawn)
        heading = state.heading + turn
        flown = heading if self.update == "forward" else state.heading
        length = self.speed * (0.5 * (1 + actions[:, 1]) if self.speed_control else 1.0)
        x, y = state.x + length * jnp.cos(flown), state.y + length * jnp.sin(flown)
        place, mirrored = surfaces.wrapped(self.surface, Place(x, y, jnp.cos(heading), jnp.sin(heading)), self.side)
        hand = None if state.hand is None else jnp.where(mirrored, -state.hand, state.hand)
        heading = jnp.arctan2(place.sin, place.cos)
        return State(place.x, place.y, heading, hand, state.step_count + 1, state.key)

    def view(self, state: State) -> jax.Array:
        """[N, d] what the agents see of a state."""
        seen, _ = self._seen(state, self.sensor)
        if state.hand is not None:
            seen = self._mirrored(seen, state.hand)
        if not self.compass:
            return seen
        return jnp.concatenate([seen, jnp.cos(state.heading)[:, None], jnp.sin(state.heading)[:, None]], axis=1)

    def order(self, state: State, view: jax.Array | None) -> jax.Array:
        """[] what is paid for a state; `view`: its views, if they are at hand."""
        cos, sin = jnp.cos(state.heading), jnp.sin(state.heading)
        if self.reward == "nematic":
            return sensing.order(cos * cos - sin * sin, 2 * cos * sin)
        if self.reward == "local":
            return self._local_order(state, view)
        sign = -1.0 if self.reward == "misalignment" else 1.0
        return sign * sensing.order(cos, sin)

    def _seen(self, state: State, sensor: str) -> tuple[jax.Array, jax.Array]:
        search = (self.radius, self.side, self.cells, self.softness)
        return sensing.view(sensor, self.sectors, self.surface, self._place(state), *search)

    @staticmethod
    def _place(state: State) -> Place:
        return Place(state.x, state.y, jnp.cos(state.heading), jnp.sin(state.heading))

    def _mean_of_neighbours(self, state: State) -> tuple[jax.Array, jax.Array]:
        """Sum of the relative headings of the neighbours and oneself."""
        seen, number = self._seen(state, "moment")
        return 1 + number * seen[:, 0], number * seen[:, 1]

    def _mirrored(self, seen: jax.Array, hand: jax.Array) -> jax.Array:
        """Views of agents whose left is the chart's right: sines change sign, sectors their order."""
        if self.sensor == "sectors":
            other = jnp.concatenate([seen[:, : self.sectors][:, ::-1], seen[:, self.sectors :]], axis=1)
        else:
            other = seen * np.array([1, -1, 1, -1] if self.sensor == "moment2" else [1, -1, 1])[: seen.shape[1]]
        return jnp.where(hand[:, None] < 0, other, seen)

    def _local_order(self, state: State, view: jax.Array | None) -> jax.Array:
        if view is None or self.sensor == "sectors":
            view, _ = self._seen(state, "moment")
        return jnp.mean(jnp.minimum(jnp.sqrt(jnp.square(view[:, 0]) + jnp.square(view[:, 1]) + 1e-12), 1))

    def _start_heading(self, share: jax.Array) -> jax.Array:
        """[N] radians from uniform numbers [N]."""
        if self.start == "uniform":
            return np.float32(np.pi) * (2 * share - 1)
        if self.start == "half":
            return np.float32(np.pi) * (share - np.float32(0.5))
        grid = jnp.linspace(-np.pi, np.pi, _GRID + 1)
        density = jnp.exp(self.concentration * (jnp.cos(0.5 * (grid[1:] + grid[:-1])) - 1))
        below = jnp.concatenate([jnp.zeros(1), jnp.cumsum(density)])
        return jnp.interp(share * below[-1], below, grid)

    def _metrics(self, state: State, view: jax.Array, turn: jax.Array) -> dict[str, jax.Array]:
        cos, sin = jnp.cos(state.heading), jnp.sin(state.heading)
        return {
            "polarisation": sensing.order(cos, sin),
            "local_order": self._local_order(state, view),
            "nematic": sensing.order(cos * cos - sin * sin, 2 * cos * sin),
            "turn": turn,
        }

    # --- for learners and readers ----------------------------------------------------------------

    def neighbours(self, state: State) -> jax.Array:
        """[N, N] bool: whom each agent sees, row by row."""
        return sensing.seen_by(self.surface, self._place(state), self.radius, self.side)

    def agents_state(self, state: State) -> jax.Array:
        """[4 N] float32: x / L, y / L, cosines and sines of the headings."""
        parts = [state.x / self.side, state.y / self.side, jnp.cos(state.heading), jnp.sin(state.heading)]
        return jnp.concatenate(parts)

    @property
    def mean_field_axes(self) -> tuple[Axis, ...]:
        """x and y, 4 centres each, and the heading, 6 centres."""
        glued, flipped = self.surface in surfaces.GLUED, self.surface in surfaces.FLIPPED
        x = Axis("circle" if glued else "line", 4, 0.5 if flipped else 1.0)
        y = Axis("circle" if self.surface in surfaces.GLUED_TOP else "line", 4, 0.5 if self.surface == "rp2" else 1.0)
        return x, y, Axis("circle", 6, order=True)

    def mean_field(self, state: State) -> jax.Array:
        """[C, N, 6, or less with walls] float32 positions and headings; glued sides are circles.

        A side with a mirroring seam is half of a circle on which each agent has a mirrored image, so that kernels see what is near
        across the seam: C is 2 on klein and mobius, 4 on rp2.
        """
        across = (0, 1) if self.surface in surfaces.FLIPPED else (0,)
        upward = (0, 1) if self.surface == "rp2" else (0,)
        images = [surfaces.image(self.surface, self._place(state), a, b, self.side) for a in across for b in upward]

        def columns(place: Place) -> jax.Array:
            parts = []
            for axis, along in zip(self.mean_field_axes, (place.x, place.y), strict=False):
                share = along / self.side
                angle = 2 * np.float32(np.pi) * axis.share * share
                parts += [jnp.cos(angle), jnp.sin(angle)] if axis.kind == "circle" else [2 * share - 1]
            return jnp.stack([*parts, place.cos, place.sin], axis=-1)

        return jnp.stack([columns(place) for place in images])

    def render(self, state: State) -> np.ndarray:
        """uint8 [320, 320, 3]: the chart and the agents with their headings, coloured by direction."""
        return viewer.arrows(np.asarray(state.x), np.asarray(state.y), np.asarray(state.heading), float(self.side))

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`steer` turns to the neighbours' mean as fast as it can, `gentle` in proportion (gain 3); `straight` never turns.

        `couzin` keeps its distance, aligns and closes up by three zones; it reads the state, where the offsets of neighbours are.
        """
        rules = {**scripted.STEERING, "couzin": scripted.couzin}
        return {name: functools.partial(rule, self) for name, rule in rules.items()}
