"""Jumanji's environments under our contract: `make("jumanji:LevelBasedForaging-v0")` (extra: jumanji; read: version 1.1.2).

What an agent is, Jumanji does not say in its types; so the environments in which several agents act are listed here
(`LAYOUTS`), with what each agent sees of the observation. Any other environment has one agent, which sees all of it;
its composite action, if there is one, becomes one index into all combinations (row-major, as NumPy's `unravel_index`).

| id | agents | agents_view | reward | end at the time limit | other ends |
|---|---|---|---|---|---|
| LevelBasedForaging | each | as given, int32 | each its own | truncated | all food eaten: terminated |
| RobotWarehouse | each | as given, int32 | shared | terminated | collision: terminated |
| Connector | each | grid, own one-hot index | each its own | truncated | all connected or blocked: terminated |
| Cleaner | each | own location, grid, index | shared | terminated | all clean, illegal move: terminated |
| MMST | each | own node, graph, index | shared | terminated | all connected: terminated |
| SearchAndRescue | each | as given, float32 | each its own | terminated | all found: terminated |
| JobShop | each machine | own job and time left, operations, index | shared | none | all done, illegal move: terminated |
| MultiCVRP | each | own vehicle, nodes, index | shared | none | all visited: terminated |
| others | one | everything, float32 | its own | as Jumanji says | as Jumanji says |

"Terminated" and "truncated" are what Jumanji's timestep says (discount 0 or 1): where it calls a time limit a termination,
so does the adapter. A shared reward or discount is handed to every agent. Jumanji's auto-reset is not used.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.adapters.extras import check_id, freeze_options, import_extra, make_inner
from marl_bench.adapters.pictures import jumanji_picture
from marl_bench.environment import Environment, Observation, TimeStep, as_metrics, field


class Layout(NamedTuple):
    """What the agents of one of Jumanji's environments see.

    Attributes:
      own: fields of the observation with one entry an agent (first axis).
      shared: fields that all agents see, flattened behind the own ones.
      numbered: whether a one-hot index of the agent follows.
    """

    own: tuple[str, ...]
    shared: tuple[str, ...] = ()
    numbered: bool = False


LAYOUTS = {
    "LevelBasedForaging": Layout(("agents_view",)),
    "RobotWarehouse": Layout(("agents_view",)),
    "SearchAndRescue": Layout(("searcher_views",)),
    "Connector": Layout((), ("grid",), True),
    "Cleaner": Layout(("agents_locations",), ("grid",), True),
    "MMST": Layout(("positions",), ("node_types", "adj_matrix"), True),
    "JobShop": Layout(
        ("machines_job_ids", "machines_remaining_times"), ("ops_machine_ids", "ops_durations", "ops_mask"), True
    ),
    "MultiCVRP": Layout(("vehicles",), ("nodes", "windows", "coeffs"), True),
}
"""By Jumanji's name without the version."""

MAX_ACTIONS = 2**16
"""Most combinations into which a composite action of one agent is unfolded."""

_NOT_SEEN = ("action_mask", "step_count", "step")


@struct.dataclass
class JumanjiState:
    """State of an adapted environment.

    Attributes:
      inner: Jumanji's state.
      step_count: [] int32, steps since the reset.
    """

    inner: Any
    step_count: jax.Array


class _Loaded(NamedTuple):
    """Jumanji's environment and what is asked of it again and again, as host values.

    Attributes:
      env: the environment.
      layout: its entry in `LAYOUTS`, if any.
      num_agents: N.
      sizes: choices of each part of its action; None if actions are continuous.
      extras: names of the scalars that its steps report.
    """

    env: Any
    layout: Layout | None
    num_agents: int
    sizes: tuple[int, ...] | None
    extras: tuple[str, ...]


def known_ids() -> list[str]:
    """Jumanji's names, sorted. Raises MissingExtra where jumanji is not installed."""
    return sorted(import_extra("jumanji", "jumanji").registered_environments())


@functools.lru_cache(maxsize=32)
def _load(id: str, options: tuple[tuple[str, Any], ...]) -> _Loaded:
    """Make Jumanji's environment once for each id and options."""
    jumanji = import_extra("jumanji", "jumanji")
    check_id("jumanji", id, known_ids())
    # Jumanji's specs hold device arrays and are cached: made under a trace, they would leak its tracers.
    with jax.ensure_compile_time_eval():
        env = make_inner(f"jumanji:{id}", functools.partial(jumanji.make, id), dict(options))
        spec = env.action_spec
        sizes = None
        if hasattr(spec, "num_values"):
            sizes = tuple(int(size) for size in np.atleast_1d(spec.num_values))
        elif np.issubdtype(spec.dtype, np.integer):
            sizes = tuple(int(top) + 1 for top in np.broadcast_to(spec.maximum, spec.shape))
    layout = LAYOUTS.get(id.rpartition("-v")[0])
    if layout is None and sizes is not None and math.prod(sizes) > MAX_ACTIONS:
        raise ValueError(
            f"jumanji:{id}: its composite action has {math.prod(sizes):,} values, more than {MAX_ACTIONS:,}"
        )
    state, _ = jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0)))
    _, timestep = jax.eval_shape(env.step, state, jax.ShapeDtypeStruct(spec.shape, spec.dtype))
    mask = getattr(timestep.observation, "action_mask", None)
    if layout is not None and sizes is not None and mask is not None:
        # MultiCVRP's spec allows one number more than there are nodes.
        sizes = tuple(min(size, mask.shape[-1]) for size in sizes)
    extras = tuple(name for name, leaf in (timestep.extras or {}).items() if getattr(leaf, "shape", None) == ())
    return _Loaded(env, layout, 1 if layout is None else spec.shape[0], sizes, extras)


@struct.dataclass
class JumanjiEnvironment(Environment):
    """One of Jumanji's environments; the module's docstring says how observations, rewards and ends are read.

    Metrics are the scalars among Jumanji's `extras` (0 at reset where its reset has none).

    Raises:
      MissingExtra: where jumanji is not installed.
      LookupError: for an unknown id. ValueError: where Jumanji refuses the options.
      TypeError: for options that cannot be hashed.
    """

    id: str = field(static=True, doc="Jumanji's name, e.g. LevelBasedForaging-v0")
    options: Any = field((), static=True, doc="arguments of the environment's class, a dict, e.g. {'time_limit': 50}")

    def __post_init__(self) -> None:
        freeze_options(self)
        _load(self.id, self.options)

    @property
    def inner(self) -> Any:
        """Jumanji's own environment."""
        return self._loaded.env

    @property
    def num_agents(self) -> int:
        """Number of agents N; 1 for an environment that is not in `LAYOUTS`."""
        return self._loaded.num_agents

    @property
    def _loaded(self) -> _Loaded:
        return _load(self.id, self.options)

    @property
    def num_actions(self) -> int:
        """Number of discrete actions of an agent (the largest over agents); 0 if actions are continuous."""
        _, layout, _, sizes, _ = self._loaded
        if sizes is None:
            return 0
        return max(sizes) if layout else math.prod(sizes)

    @property
    def _view(self) -> jax.ShapeDtypeStruct:
        return _view_of(self.id, self.options)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one agent's view: as Jumanji gives it if it is one array an agent, else flat."""
        return self._view.shape[1:]

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """Spec of the observation; views keep Jumanji's dtype if they are one array an agent."""
        view = specs.Array(self._view.shape, self._view.dtype, "agents_view")
        return dataclasses.replace(super().observation_spec, agents_view=view)

    @property
    def action_spec(self) -> Any:
        """[N] integers, or Jumanji's box [N, D]."""
        spec, sizes = self.inner.action_spec, self._loaded.sizes
        if sizes is None:
            low, high = np.asarray(spec.minimum), np.asarray(spec.maximum)
            return specs.BoundedArray(spec.shape, np.float32, "action", low, high)
        return specs.MultiDiscreteArray(sizes if self._loaded.layout else [self.num_actions], np.int32, "action")

    @property
    def metric_units(self) -> dict[str, str]:
        """Jumanji does not state units."""
        return {name: "as Jumanji reports it" for name in self._loaded.extras}

    def reset(self, key: jax.Array) -> tuple[JumanjiState, TimeStep]:
        """Start an episode; `key` is [] typed."""
        inner, timestep = self.inner.reset(key)
        step_count = jnp.int32(0)
        observation = self._read(timestep.observation, step_count)
        return JumanjiState(inner, step_count), self.restart(observation, self._metrics(timestep.extras))

    def step(self, state: JumanjiState, actions: jax.Array) -> tuple[JumanjiState, TimeStep]:
        """Advance by one joint action, [N] integers (clipped to what exists) or [N, D] numbers (clipped to the box)."""
        inner, timestep = self.inner.step(state.inner, self._write(actions))
        step_count = state.step_count + 1
        shape = (self.num_agents,)
        return JumanjiState(inner, step_count), TimeStep(
            step_type=timestep.step_type.astype(jnp.int8),
            reward=jnp.broadcast_to(timestep.reward, shape).astype(jnp.float32),
            discount=jnp.broadcast_to(timestep.discount, shape).astype(jnp.float32),
            observation=self._read(timestep.observation, step_count),
            extras={"metrics": as_metrics(self._metrics(timestep.extras))},
        )

    def render(self, state: JumanjiState) -> np.ndarray:
        """uint8 [H, W, 3]: the picture of Jumanji's own viewer. Raises NotImplementedError where it has none."""
        picture = jumanji_picture(self.inner.unwrapped, state.inner)
        if picture is None:
            raise NotImplementedError(f"Jumanji has no viewer of {self.id} that makes pictures")
        return picture

    def _metrics(self, extras: dict[str, Any] | None) -> dict[str, Any]:
        return {name: (extras or {}).get(name, 0.0) for name in self._loaded.extras}

    def _write(self, actions: jax.Array) -> jax.Array:
        """Jumanji's action from ours."""
        spec, sizes = self.inner.action_spec, self._loaded.sizes
        if sizes is None:
            return jnp.clip(actions, np.asarray(spec.minimum), np.asarray(spec.maximum)).astype(spec.dtype)
        if self._loaded.layout:
            return jnp.clip(actions, 0, np.array(sizes) - 1).astype(spec.dtype)
        action = jnp.clip(actions[0], 0, self.num_actions - 1)
        if spec.shape == ():
            return action.astype(spec.dtype)
        return jnp.stack(jnp.unravel_index(action, sizes)).astype(spec.dtype)

    def _read(self, observation: Any, step_count: jax.Array) -> Observation:
        _, layout, num_agents, sizes, _ = self._loaded
        mask = getattr(observation, "action_mask", None)
        if mask is not None:
            mask = jnp.reshape(mask, (num_agents, self.num_actions))
        elif layout and sizes is not None:
            mask = jnp.asarray(np.arange(self.num_actions) < np.array(sizes)[:, None])
        return self.observe_view(_read_view(observation, layout, num_agents), step_count, mask)


@functools.lru_cache(maxsize=32)
def _view_of(id: str, options: tuple[tuple[str, Any], ...]) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the views [N, ...]."""
    env, layout, num_agents, _, _ = _load(id, options)
    _, timestep = jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0)))
    return jax.eval_shape(lambda observation: _read_view(observation, layout, num_agents), timestep.observation)


def _read_view(observation: Any, layout: Layout | None, num_agents: int) -> jax.Array:
    """[N, ...]: what each agent sees of Jumanji's observation."""
    if layout is None:
        fields = [name for name in _fields(observation) if name not in _NOT_SEEN]
        return jnp.concatenate([_flat(getattr(observation, name)) for name in fields])[None]
    if len(layout.own) == 1 and not layout.shared and not layout.numbered:
        return getattr(observation, layout.own[0])
    parts = [jax.vmap(_flat)(getattr(observation, name)) for name in layout.own]
    for name in layout.shared:
        shared = _flat(getattr(observation, name))
        parts.append(jnp.broadcast_to(shared, (num_agents, shared.size)))
    if layout.numbered:
        parts.append(jnp.eye(num_agents, dtype=jnp.float32))
    return jnp.concatenate(parts, axis=1)


def _fields(observation: Any) -> tuple[str, ...]:
    return tuple(getattr(observation, "_fields", None) or observation.__dataclass_fields__)


def _flat(part: Any) -> jax.Array:
    """All leaves of a part of an observation, one after the other, float32."""
    return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(part)])
