"""JaxMARL's environments under our contract: `make("jaxmarl:MPE_simple_spread_v3")` (extra: jaxmarl; read: version 0.2.0).

Agents come in the order of JaxMARL's `agents`. Views of unequal length are padded with zeros at the end, action spaces of
unequal size by masked actions; `view_lengths` and `action_sizes` hold what is real. `step_env` is called, so an episode's
last observation is its own and JaxMARL's auto-reset plays no part. `options` are the arguments of JaxMARL's class; SMAX's
`scenario` may be a name ("3m").

JaxMARL has one flag a step, `dones["__all__"]`. What an end was is read here as far as it can be told:

| environments | terminated (discount 0) | truncated (discount 1) |
|---|---|---|
| SMAX, HeuristicEnemySMAX | a team has no unit left | `max_steps` reached with both alive |
| MPE_* (26 steps for `max_steps` 25), overcooked, overcooked_v2, coin_game | never | always: they end by time only |
| switch_riddle, jaxnav and others with `max_steps` | before that step | in the step that reaches it |
| hanabi and others without | always | never |

While an episode goes on, every discount is 1, also of an agent that JaxMARL calls done (a dead unit still shares its team's
reward); `extras["agent_done"]` [N] passes those flags on. `global_state` is JaxMARL's world state, where there is one.
Not offered: storm, storm_2p and storm_np, whose observations are not keyed by agent.
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
from marl_bench.adapters.pictures import particles_picture
from marl_bench.environment import Environment, Observation, TimeStep, field

TIMED = ("MPE_", "overcooked", "coin_game")
"""Prefixes of the ids whose episodes end by time only."""

MPE_OPTIONS = (
    "accel", "c_noise", "collide", "contact_force", "contact_margin", "damping", "mass", "max_speed", "moveable", "rad",
    "silent", "u_noise",
)  # fmt: skip
"""What JaxMARL's `SimpleMPE` looks up in its `**kwargs`; it says nothing to any other name."""


@struct.dataclass
class JaxMARLState:
    """State of an adapted environment.

    Attributes:
      inner: JaxMARL's state.
      key: [] typed PRNG key for the next steps.
      step_count: [] int32, steps since the reset.
    """

    inner: Any
    key: jax.Array
    step_count: jax.Array


class _Loaded(NamedTuple):
    """JaxMARL's environment and what is asked of it again and again.

    Attributes:
      env: the environment.
      agents: its agents' names, in order.
      views: shape and dtype of each agent's observation.
      sizes: number of actions, or of numbers of a continuous action, of each agent.
      box: (low [N, D], high [N, D]) of continuous actions; None for discrete ones.
      masked: whether it says which actions are legal.
      world: whether it has a world state.
    """

    env: Any
    agents: tuple[Any, ...]
    views: tuple[jax.ShapeDtypeStruct, ...]
    sizes: tuple[int, ...]
    box: tuple[np.ndarray, np.ndarray] | None
    masked: bool
    world: bool


def known_ids() -> list[str]:
    """JaxMARL's names, sorted. Raises MissingExtra where jaxmarl is not installed."""
    return sorted(import_extra("jaxmarl", "jaxmarl").registered_envs)


@functools.lru_cache(maxsize=32)
def _load(id: str, options: tuple[tuple[str, Any], ...]) -> _Loaded:
    """Make JaxMARL's environment once for each id and options."""
    jaxmarl = import_extra("jaxmarl", "jaxmarl")
    check_id("jaxmarl", id, known_ids())
    arguments = dict(options)
    if isinstance(arguments.get("scenario"), str):
        smax = import_extra("jaxmarl.environments.smax", "jaxmarl")
        arguments["scenario"] = smax.map_name_to_scenario(arguments["scenario"])
    # Spaces and constants must be arrays of the device, not tracers of whoever makes the environment first.
    with jax.ensure_compile_time_eval():
        swallowed = MPE_OPTIONS if id.startswith("MPE_") else ()
        env = make_inner(f"jaxmarl:{id}", functools.partial(jaxmarl.make, id), arguments, swallowed)
        spaces = [env.action_space(agent) for agent in env.agents]
        box = None if all(hasattr(space, "n") for space in spaces) else _boxes(spaces)
    observation, state = jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0)))
    if not isinstance(observation, dict) or any(agent not in observation for agent in env.agents):
        raise ValueError(f"jaxmarl:{id}: its observations are not keyed by agent, so it cannot be adapted")
    sizes = tuple(int(space.n) if box is None else math.prod(space.shape) for space in spaces)
    return _Loaded(
        env,
        tuple(env.agents),
        tuple(observation[agent] for agent in env.agents),
        sizes,
        box,
        box is None and _offers(env, "get_avail_actions", state),
        _offers(env, "get_world_state", state),
    )


def _boxes(spaces: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds [N, D] of continuous actions, 0 where an agent has fewer numbers than others."""
    width = max(math.prod(space.shape) for space in spaces)
    low, high = np.zeros((2, len(spaces), width), np.float32)
    for agent, space in enumerate(spaces):
        size = math.prod(space.shape)
        low[agent, :size] = np.broadcast_to(space.low, space.shape).ravel()
        high[agent, :size] = np.broadcast_to(space.high, space.shape).ravel()
    return low, high


def _offers(env: Any, method: str, state: Any) -> bool:
    """Whether a method of JaxMARL's environment exists and is more than a placeholder."""
    if not hasattr(env, method):
        return False
    try:
        found = jax.eval_shape(getattr(env, method), state)
    except (NotImplementedError, AttributeError, TypeError):
        return False
    return found is not None


@struct.dataclass
class JaxMARLEnvironment(Environment):
    """One of JaxMARL's environments; the module's docstring says how observations, rewards and ends are read.

    Metrics: `alive`, agents that JaxMARL does not call done.

    Raises:
      MissingExtra: where jaxmarl is not installed.
      LookupError: for an unknown id. ValueError: where JaxMARL refuses the options, or the id cannot be adapted.
      TypeError: for options that cannot be hashed.
    """

    id: str = field(static=True, doc="JaxMARL's name, e.g. MPE_simple_spread_v3")
    options: Any = field((), static=True, doc="arguments of JaxMARL's class, a dict, e.g. {'num_agents': 5}")

    def __post_init__(self) -> None:
        freeze_options(self)
        _load(self.id, self.options)

    @property
    def _loaded(self) -> _Loaded:
        return _load(self.id, self.options)

    @property
    def inner(self) -> Any:
        """JaxMARL's own environment."""
        return self._loaded.env

    @property
    def agent_names(self) -> tuple[str, ...]:
        """JaxMARL's names of the agents, in the order of the agent axis."""
        return tuple(str(agent) for agent in self._loaded.agents)

    @property
    def view_lengths(self) -> tuple[int, ...]:
        """[N] real entries of each agent's (flat) view; zeros follow."""
        return tuple(math.prod(view.shape) for view in self._loaded.views)

    @property
    def action_sizes(self) -> tuple[int, ...]:
        """[N] actions, or numbers of a continuous action, that each agent really has."""
        return self._loaded.sizes

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        return len(self._loaded.agents)

    @property
    def num_actions(self) -> int:
        """Number of discrete actions (the largest over agents); 0 if actions are continuous."""
        return max(self._loaded.sizes) if self._loaded.box is None else 0

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one agent's view: JaxMARL's if all agents have the same, else (longest,)."""
        shapes = {view.shape for view in self._loaded.views}
        return shapes.pop() if len(shapes) == 1 else (max(self.view_lengths),)

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """Spec of the observation; views keep JaxMARL's dtype."""
        view = specs.Array((self.num_agents, *self.observation_shape), self._loaded.views[0].dtype, "agents_view")
        return dataclasses.replace(super().observation_spec, agents_view=view)

    @property
    def action_spec(self) -> Any:
        """[N] integers below each agent's number of actions, or a box [N, D] (bounds 0 where an agent has fewer)."""
        if self._loaded.box is None:
            return specs.MultiDiscreteArray(self._loaded.sizes, np.int32, "action")
        low, high = self._loaded.box
        return specs.BoundedArray(low.shape, np.float32, "action", low, high)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {"alive": "agents that are not done"}

    def reset(self, key: jax.Array) -> tuple[JaxMARLState, TimeStep]:
        """Start an episode; `key` is [] typed."""
        key_reset, key_steps = jax.random.split(key)
        observation, inner = self.inner.reset(key_reset)
        state = JaxMARLState(_strong(inner), key_steps, jnp.int32(0))
        timestep = self.restart(self._read(observation, state), {"alive": self.num_agents})
        extras = {**timestep.extras, "agent_done": jnp.zeros(self.num_agents, bool)}
        return state, timestep.replace(extras=extras)  # pyright: ignore[reportAttributeAccessIssue]

    def step(self, state: JaxMARLState, actions: jax.Array) -> tuple[JaxMARLState, TimeStep]:
        """Advance by one joint action, [N] integers (clipped to what each agent has) or [N, D] numbers (clipped)."""
        agents = self._loaded.agents
        key, key_step = jax.random.split(state.key)
        observation, inner, rewards, dones, _ = self.inner.step_env(key_step, state.inner, self._write(actions))
        following = JaxMARLState(_strong(inner), key, state.step_count + 1)
        reward = jnp.stack([jnp.asarray(rewards[agent], jnp.float32).reshape(()) for agent in agents])
        agent_done = jnp.stack([jnp.asarray(dones[agent], bool).reshape(()) for agent in agents])
        ended = jnp.asarray(dones["__all__"], bool).reshape(())
        terminated = ended & ~self._by_time(inner)
        metrics = {"alive": jnp.sum(~agent_done)}
        timestep = self.transition(reward, self._read(observation, following), terminated, ended & ~terminated, metrics)
        extras = {**timestep.extras, "agent_done": agent_done}
        return following, timestep.replace(extras=extras)  # pyright: ignore[reportAttributeAccessIssue]

    def global_state(self, state: JaxMARLState) -> jax.Array:
        """[S] float32: JaxMARL's world state. Raises NotImplementedError where it has none."""
        if not self._loaded.world:
            return super().global_state(state)
        return jnp.ravel(self.inner.get_world_state(state.inner)).astype(jnp.float32)

    def render(self, state: JaxMARLState) -> np.ndarray:
        """uint8 [H, W, 3]: the picture of JaxMARL's own viewer; raises NotImplementedError but for `MPE_*`."""
        if not self.id.startswith("MPE_"):
            raise NotImplementedError(f"JaxMARL has no viewer that draws one state of {self.id}, only of MPE_*")
        return particles_picture(self.inner, state.inner)

    def _by_time(self, inner: Any) -> jax.Array:
        """[] bool: if an episode ends in this state, was it the time limit?"""
        if self.id.startswith(TIMED):
            return jnp.bool_(True)
        own = getattr(inner, "state", inner)
        if hasattr(own, "unit_alive"):
            allies = self.inner.num_allies
            return own.unit_alive[:allies].any() & own.unit_alive[allies:].any()
        limit = getattr(self.inner, "max_steps", None)
        return jnp.bool_(False) if limit is None else jnp.all(own.step >= limit)

    def _write(self, actions: jax.Array) -> dict[Any, jax.Array]:
        """JaxMARL's action dict from ours."""
        _, agents, _, sizes, box, _, _ = self._loaded
        if box is None:
            actions = jnp.clip(actions, 0, np.array(sizes) - 1)
            return {agent: actions[index] for index, agent in enumerate(agents)}
        actions = jnp.clip(actions, *box)
        return {agent: actions[index, : sizes[index]] for index, agent in enumerate(agents)}

    def _read(self, observation: dict[Any, jax.Array], state: JaxMARLState) -> Observation:
        env, agents, _, sizes, box, masked, _ = self._loaded
        views = [observation[agent] for agent in agents]
        if len({view.shape for view in views}) > 1:
            longest = max(self.view_lengths)
            views = [jnp.pad(jnp.ravel(view), (0, longest - view.size)) for view in views]
        mask = None
        if masked:
            legal = env.get_avail_actions(state.inner)
            rows = [jnp.asarray(legal[agent], bool) for agent in agents]
            mask = jnp.stack([jnp.pad(row, (0, self.num_actions - row.size)) for row in rows])
        elif box is None:
            mask = jnp.asarray(np.arange(self.num_actions) < np.array(sizes)[:, None])
        return self.observe_view(jnp.stack(views), state.step_count, mask)


def _strong(tree: Any) -> Any:
    """The same arrays without weak types: JaxMARL's differ between reset and step, which would compile a step twice."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.asarray(leaf, leaf.dtype), tree
    )
