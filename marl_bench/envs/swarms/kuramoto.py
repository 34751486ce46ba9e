"""Falling into step: `kuramoto`.

N oscillators with frequencies of their own see the phases of their neighbours relative to their own, and speed up or slow down. They
are paid, as a team, for one common phase. Sources: Kuramoto 1975 and Strogatz 2000 for the classic model (`coupling`), Tanaka, Lichtenberg
and Oishi 1997 for inertia; the controlled task is a reconstruction (spec swarm_envs.md section 6) of one of Cui, Hauck, Fabian and
Koeppl 2024 (arXiv 2307.06175).

| | content |
|---|---|
| action | [N, 1] float32 in [-1, 1] (clipped): change of frequency, times `max_turn` |
| agents_view | [N, d] float32 by `sensor` (`sensing`), then with `see_velocity` the own velocity |
| reward | order of the phases minus `action_cost` times the mean |action|, the same for all; of the state *before* the step |
| ends | truncated after `horizon` steps |
| metrics | `order`, `local_order`, `velocity`, `turn` |
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
    concrete,
    field,
)
from marl_bench.envs.swarms import scripted, sensing, viewer
from marl_bench.envs.swarms.checks import check_flags, check_search, check_softness
from marl_bench.envs.swarms.surfaces import Place
from marl_bench.envs.swarms.swarm import BROADCAST_DOC, BROADCASTS, Swarm
from marl_bench.mean_field import Axis
from marl_bench.random import normal, unit_interval, words

GRAPHS = ("geometric", "all")
LAWS = ("gaussian", "lorentzian", "uniform")
START, FREQUENCY, NOISE = 0, 1, 2
"""Streams of random words."""


@struct.dataclass
class State:
    """State of `kuramoto`.

    Attributes:
      x, y: [N] float32 places on the unit torus, fixed in an episode.
      phase: [N] float32 radians in [-pi, pi].
      frequency: [N] float32 natural frequencies, radians a unit of time; with `white`, those of the last step.
      velocity: [N] float32 of the phases; None without inertia.
      step_count: [] int32.
      key: [] typed PRNG key of the episode's noise.
    """

    x: jax.Array
    y: jax.Array
    phase: jax.Array
    frequency: jax.Array
    velocity: jax.Array | None
    step_count: jax.Array
    key: jax.Array


@struct.dataclass
class Kuramoto(Swarm):
    """Falling into step; observation, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    provenance: ClassVar[dict[str, str]] = dict.fromkeys(
        ("radius", "frequency_spread", "max_turn", "action_cost", "horizon", "graph"), "reconstruction"
    )
    """Where the defaults come from; none of them could be read in the paper."""

    agents: int = field(100, static=True, doc="number of oscillators N; >= 2", unit="agents")
    horizon: int = field(100, static=True, doc="steps after which the episode is truncated [T]; >= 1", unit="steps")
    graph: str = field("geometric", static=True, doc="who sees whom: geometric (nearer than radius), or all")
    sensor: str = field("moment", static=True, doc=f"view of the neighbours: {', '.join(sensing.SENSORS)}")
    sectors: int = field(8, static=True, doc="number of sectors of sensor=sectors; >= 2")
    law: str = field("gaussian", static=True, doc=f"of the natural frequencies: {', '.join(LAWS)}")
    quantiles: bool = field(False, static=True, doc="frequencies at equal steps of their distribution, not drawn")
    white: bool = field(False, static=True, doc="draw the frequencies anew in every step")
    synchronous: bool = field(False, static=True, doc="start with equal phases instead of uniform ones")
    inertial: bool = field(False, static=True, doc="phases have a velocity that follows the forces with delay `mass`")
    see_velocity: bool = field(False, static=True, doc="append the own velocity to the view (inertial)")
    heun: bool = field(False, static=True, doc="Heun's method instead of Euler's (without inertia)")
    reward_on_next: bool = field(False, static=True, doc="pay for the state after the step instead of the one before")
    broadcast: str = field("nothing", static=True, doc=BROADCAST_DOC)
    cells: int | None = field(
        None,
        static=True,
        doc="cells a side of the neighbour search, each at least a radius wide; None compares all pairs",
    )
    radius: float = field(
        0.25, doc="how far neighbours are seen on the unit torus [R]; > 0, at most 0.5", unit="length"
    )
    softness: float | None = field(
        None,
        doc="half the distance over which a neighbour fades out around the radius [tau]; > 0, below the radius; None for a sharp one",
        unit="length",
    )
    frequency_spread: float = field(
        0.05, doc="standard deviation, or half width (lorentzian, uniform), of the frequencies; >= 0", unit="rad/time"
    )
    max_turn: float = field(0.2, doc="largest change of a frequency by an action [omega_max]; > 0", unit="rad/time")
    noise: float = field(0.0, doc="standard deviation of the phases' noise in a unit of time [sigma]; >= 0", unit="rad")
    coupling: float = field(0.0, doc="strength of the classic coupling [K]; >= 0", unit="1/time")
    mass: float = field(2.0, doc="delay of the velocity [m], with `inertial`; > step_time", unit="time")
    damping: float = field(
        1.0, doc="friction of the velocity [D], with `inertial`; other than 1 for the swing equation; >= 0"
    )
    step_time: float = field(1.0, doc="time that passes in a step [dt]; > 0", unit="time/step")
    action_cost: float = field(0.05, doc="price of the largest action [c_u]; >= 0", unit="reward")

    def __post_init__(self) -> None:
        check_integer(self, "agents", 2)
        check_integer(self, "horizon", 1)
        check_integer(self, "sectors", 2, 64)
        check_choice(self, "graph", GRAPHS)
        check_choice(self, "sensor", sensing.SENSORS)
        check_choice(self, "law", LAWS)
        check_choice(self, "broadcast", BROADCASTS)
        check_flags(self, "quantiles", "white", "synchronous", "inertial", "see_velocity", "heun", "reward_on_next")
        for name in ("radius", "max_turn", "mass", "step_time"):
            check_range(self, name, 0.0, open_low=True)
        for name in ("frequency_spread", "noise", "coupling", "action_cost", "damping"):
            check_range(self, name, 0.0)
        if self.graph == "all" and self.sensor not in ("moment", "moment2"):
            raise ValueError(
                f"sensor={self.sensor!r}: with graph=all use moment or moment2, which need no pairs (field of Kuramoto)"
            )
        if self.white and self.quantiles:
            raise ValueError(
                "quantiles=True: with white=True frequencies are drawn anew in every step; use one of them"
            )
        if self.graph == "all" and self.cells is not None:
            raise ValueError(f"cells={self.cells!r}: with graph=all there is no neighbour search; use cells=None")
        known = concrete(self.mass) and concrete(self.step_time)
        if self.inertial and known and self.mass <= self.step_time:
            raise ValueError(
                f"mass={self.mass!r}: must be > step_time={self.step_time!r}, or the velocity overshoots (field of Kuramoto)"
            )
        check_softness(self)
        if self.softness is not None and self.graph == "all":
            raise ValueError(
                f"softness={self.softness!r}: with graph=all there is no radius; use softness=None (field of Kuramoto)"
            )
        if concrete(self.damping) and self.damping != 1 and not self.inertial:
            raise ValueError(
                f"damping={self.damping!r}: only with inertial=True do phases have a velocity (field of Kuramoto)"
            )
        if self.heun and self.inertial:
            raise ValueError("heun=True: with inertial=True the step is semi-implicit Euler's; use heun=False")
        if self.see_velocity and not self.inertial:
            raise ValueError("see_velocity=True: only with inertial=True do phases have a velocity (field of Kuramoto)")
        if self.graph == "geometric":
            check_search(self)

    # --- sizes and specs -------------------------------------------------------------------------

    @property
    def side(self) -> float:
        """Side of the torus, 1."""
        return 1.0

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(d,)."""
        return (sensing.size(self.sensor, self.sectors) + self.see_velocity + self.told_size,)

    @property
    def action_spec(self) -> specs.BoundedArray:
        """[N, 1] float32 in [-1, 1]."""
        return specs.BoundedArray((self.agents, 1), np.float32, "action", -1.0, 1.0)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "order": "length of the mean phase vector after the step, 0 ... 1",
            "local_order": "mean over oscillators of the length of their neighbours' mean relative phase, 0 ... 1",
            "velocity": "mean change of the phases in this step, rad a unit of time",
            "turn": "mean |action|",
        }

    # --- episode ---------------------------------------------------------------------------------

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Draw places, phases and frequencies. `key`: [] typed PRNG key."""
        start = jnp.int32(0)
        x, y, share = unit_interval(words(key, start, START, 3 * self.agents)).reshape(3, -1)
        phase = jnp.zeros(self.agents) if self.synchronous else np.float32(np.pi) * (2 * share - 1)
        frequency = self._frequencies(key, start)
        state = State(x, y, phase, frequency, frequency if self.inertial else None, start, key)
        view = self.view(state)
        nothing = jnp.float32(0)
        return state, self.restart(
            self.observe_view(self.told(state, view), start), self._metrics(state, view, nothing, nothing)
        )

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """All oscillators go on at once. `actions`: [N, 1] floats, clipped to [-1, 1]."""
        push = jnp.clip(actions.astype(jnp.float32)[:, 0], -1, 1)
        following, velocity = self.moved(state, push, words(state.key, state.step_count, NOISE, self.agents))
        view, turn = self.view(following), jnp.mean(jnp.abs(push))
        paid = self.order(following if self.reward_on_next else state) - self.action_cost * turn
        timestep = self.transition(
            jnp.broadcast_to(paid, (self.agents,)),
            self.observe_view(self.told(following, view), following.step_count),
            truncated=following.step_count >= self.horizon,
            metrics=self._metrics(following, view, velocity, turn),
        )
        return following, timestep

    def moved(self, state: State, push: jax.Array, drawn: jax.Array) -> tuple[State, jax.Array]:
        """The state one step later, and the mean velocity [].

        Args:
          push: [N] actions in [-1, 1]. drawn: [N] uint32 words of the noise.
        """
        time = self.step_time
        frequency = self._frequencies(state.key, state.step_count) if self.white else state.frequency

        def drive(phase: jax.Array) -> jax.Array:
            return frequency + self.max_turn * push + self.coupling * self.pull(state, phase)

        velocity = None
        if state.velocity is not None:
            velocity = state.velocity + time / self.mass * (drive(state.phase) - self.damping * state.velocity)
            slope = velocity
        else:
            slope = drive(state.phase)
            if self.heun:
                slope = 0.5 * (slope + drive(state.phase + time * slope))
        phase = state.phase + time * slope + self.noise * jnp.sqrt(time) * normal(drawn)
        phase = (phase + np.float32(np.pi)) % np.float32(2 * np.pi) - np.float32(np.pi)
        following = State(state.x, state.y, phase, frequency, velocity, state.step_count + 1, state.key)
        return following, jnp.mean(slope)

    def pull(self, state: State, phase: jax.Array) -> jax.Array:
        """[N] classic coupling at unit strength: mean over all (with oneself), or over the neighbours, of sin(theta_j - theta_i)."""
        if self.graph == "all":
            cos, sin = jnp.cos(phase), jnp.sin(phase)
            return jnp.mean(sin) * cos - jnp.mean(cos) * sin
        return self._seen(state, phase, "moment")[:, 1]

    def view(self, state: State) -> jax.Array:
        """[N, d] what the oscillators see of a state."""
        seen = self._seen(state, state.phase, self.sensor)
        if not self.see_velocity or state.velocity is None:
            return seen
        return jnp.concatenate([seen, state.velocity[:, None]], axis=1)

    @staticmethod
    def order(state: State) -> jax.Array:
        """[] length of the mean phase vector."""
        return sensing.order(jnp.cos(state.phase), jnp.sin(state.phase))

    def _seen(self, state: State, phase: jax.Array, sensor: str) -> jax.Array:
        cos, sin = jnp.cos(phase), jnp.sin(phase)
        if self.graph == "geometric":
            place = Place(state.x, state.y, cos, sin)
            search = (self.radius, self.side, self.cells, self.softness)
            return sensing.view(sensor, self.sectors, "torus", place, *search)[0]
        harmonics = [(cos, sin)] if sensor == "moment" else [(cos, sin), (cos * cos - sin * sin, 2 * cos * sin)]
        columns = []
        for real, imaginary in harmonics:
            others = (jnp.sum(real) - real) / (self.agents - 1), (jnp.sum(imaginary) - imaginary) / (self.agents - 1)
            columns += [others[0] * real + others[1] * imaginary, others[1] * real - others[0] * imaginary]
        return jnp.stack(columns, axis=1)

    def _frequencies(self, key: jax.Array, step_count: jax.Array) -> jax.Array:
        """[N] natural frequencies of an episode, or of a step with `white`."""
        if self.quantiles:
            share = jnp.asarray((np.arange(self.agents) + 0.5) / self.agents, jnp.float32)
            deviate = jax.scipy.stats.norm.ppf(share)
        else:
            drawn = words(key, step_count, FREQUENCY, self.agents)
            share, deviate = unit_interval(drawn) + np.float32(2.0**-25), normal(drawn)
        if self.law == "lorentzian":
            deviate = jnp.tan(np.float32(np.pi) * (share - np.float32(0.5)))
        elif self.law == "uniform":
            deviate = 2 * share - 1
        return self.frequency_spread * deviate

    def _metrics(self, state: State, view: jax.Array, velocity: jax.Array, turn: jax.Array) -> dict[str, jax.Array]:
        seen = self._seen(state, state.phase, "moment") if self.sensor == "sectors" else view
        local = jnp.sqrt(jnp.square(seen[:, 0]) + jnp.square(seen[:, 1]) + 1e-12)
        return {
            "order": self.order(state),
            "local_order": jnp.mean(jnp.minimum(local, 1)),
            "velocity": velocity,
            "turn": turn,
        }

    # --- for learners and readers ----------------------------------------------------------------

    def neighbours(self, state: State) -> jax.Array:
        """[N, N] bool: whom each oscillator sees, row by row."""
        if self.graph == "all":
            return ~jnp.eye(self.agents, dtype=bool)
        place = Place(state.x, state.y, jnp.cos(state.phase), jnp.sin(state.phase))
        return sensing.seen_by("torus", place, self.radius, self.side)

    def agents_state(self, state: State) -> jax.Array:
        """[5 N] float32: x, y, cosines and sines of the phases, frequencies; [6 N] with inertia, velocities."""
        parts = [state.x, state.y, jnp.cos(state.phase), jnp.sin(state.phase), state.frequency]
        return jnp.concatenate([*parts, *([] if state.velocity is None else [state.velocity])])

    @property
    def mean_field_axes(self) -> tuple[Axis, ...]:
        """x and y, 4 centres each, and the phase, 6 centres; with graph=all the phase alone, 8 centres."""
        if self.graph == "all":
            return (Axis("circle", 8, order=True),)
        return Axis("circle", 4), Axis("circle", 4), Axis("circle", 6, order=True)

    def mean_field(self, state: State) -> jax.Array:
        """[1, N, 6, or 2 with graph=all] float32 places on the torus and phases, as cosines and sines."""
        angles = [state.phase]
        if self.graph == "geometric":
            angles = [*(2 * np.float32(np.pi) * along / self.side for along in (state.x, state.y)), state.phase]
        return jnp.stack([part for angle in angles for part in (jnp.cos(angle), jnp.sin(angle))], axis=-1)[None]

    def render(self, state: State) -> np.ndarray:
        """uint8 [320, 320, 3]: oscillators at their places, hands and colours by their phases."""
        return viewer.arrows(np.asarray(state.x), np.asarray(state.y), np.asarray(state.phase), self.side)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`steer` goes to the neighbours' mean as fast as it can, `gentle` in proportion (gain 3); `straight` does nothing."""
        return {name: functools.partial(rule, self) for name, rule in scripted.STEERING.items()}
