"""Our environments in the style of JaxMARL: dicts keyed by agent, pure functions, restart inside `step`.

    env = DictEnvironment(make("foraging"))
    observations, state = env.reset(key)
    observations, state, rewards, dones, infos = env.step(key, state, {agent: action for agent in env.agents})

Nothing of JaxMARL is needed, but for the spaces that its learners ask for (`observation_space`, `action_space`). What
JaxMARL's interface has no place for stands in `infos`: "terminated" and "truncated" (an end by the game, or by time),
and "final_observation", the last observation of an episode that has just been followed by the next one's first.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.adapters.extras import import_extra
from marl_bench.environment import Environment, Observation, TimeStep


@struct.dataclass
class DictState:
    """State of a `DictEnvironment`.

    Attributes:
      inner: state of our environment.
      observation: the current `Observation`.
      done: [] bool, whether the last step ended an episode.
      step: [] int32, steps since the reset.
    """

    inner: Any
    observation: Observation
    done: jax.Array
    step: jax.Array


class DictEnvironment:
    """One of our environments with the methods of `jaxmarl.environments.MultiAgentEnv`.

    Attributes:
      environment: ours.
      agents: "agent_0", "agent_1", ...: its agent axis in order.
      num_agents: N.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.num_agents = environment.num_agents
        self.agents = [f"agent_{index}" for index in range(self.num_agents)]

    @property
    def name(self) -> str:
        """Name of our environment's class."""
        return type(self.environment.unwrapped).__name__

    def reset(self, key: jax.Array) -> tuple[dict[str, jax.Array], DictState]:
        """Start an episode.

        Args:
          key: [] typed PRNG key.
        Returns:
          observations: agent -> its view, and the state.
        """
        inner, timestep = self.environment.reset(key)
        state = _state(inner, timestep)
        return self.get_obs(state), state

    def step_env(self, key: jax.Array, state: DictState, actions: dict[str, jax.Array]) -> tuple[Any, ...]:
        """Advance without restart; returns what `step` returns, without "final_observation"."""
        del key  # ours keep their keys in the state
        joint = jnp.stack([jnp.asarray(actions[agent]) for agent in self.agents])
        inner, timestep = self.environment.step(state.inner, joint)
        following = _state(inner, timestep)
        rewards = self._split(timestep.reward)
        last = timestep.last()
        dones = {agent: last for agent in (*self.agents, "__all__")}
        infos = {
            "terminated": self._split(last & (timestep.discount == 0)),
            "truncated": self._split(last & (timestep.discount != 0)),
            "metrics": timestep.extras["metrics"],
        }
        return self.get_obs(following), following, rewards, dones, infos

    def step(
        self, key: jax.Array, state: DictState, actions: dict[str, jax.Array], reset_state: DictState | None = None
    ) -> tuple[dict[str, jax.Array], DictState, dict[str, jax.Array], dict[str, jax.Array], dict[str, Any]]:
        """Advance by one joint action, and start the next episode if this one has ended.

        Args:
          key: [] typed PRNG key for the next episode's start.
          state: the state.
          actions: agent -> its action, [] integer or [D] floats; out-of-range values are treated as the environment says.
          reset_state: where the next episode starts; drawn with `key` if None.
        Returns:
          observations: agent -> view (of the next episode after an end), the next state, rewards: agent -> [] float32,
          dones: agent and "__all__" -> [] bool, infos: see the module's docstring.
        """
        observations, following, rewards, dones, infos = self.step_env(key, state, actions)
        if reset_state is None:
            _, reset_state = self.reset(key)
        following = jax.tree.map(lambda new, old: jnp.where(dones["__all__"], new, old), reset_state, following)
        # Whoever asks the state learns that an episode has ended.
        following = following.replace(done=dones["__all__"])  # pyright: ignore[reportAttributeAccessIssue]
        infos = {**infos, "final_observation": observations}
        return self.get_obs(following), following, rewards, dones, infos

    def get_obs(self, state: DictState) -> dict[str, jax.Array]:
        """Agent -> its view."""
        return self._split(state.observation.agents_view)

    def get_avail_actions(self, state: DictState) -> dict[str, jax.Array]:
        """Agent -> [A] bool, which of its actions are legal."""
        return self._split(state.observation.action_mask)

    def get_world_state(self, state: DictState) -> jax.Array:
        """[S] float32, see `Environment.global_state`."""
        return self.environment.global_state(state.inner)

    def observation_space(self, agent: str) -> Any:
        """JaxMARL's `Box` of a view. Raises MissingExtra without JaxMARL, ValueError for an unknown agent."""
        self._index(agent)
        spaces = import_extra("jaxmarl.environments.spaces", "jaxmarl")
        spec = self.environment.observation_spec.agents_view
        low = np.min(getattr(spec, "minimum", -np.inf))
        high = np.max(getattr(spec, "maximum", np.inf))
        return spaces.Box(low, high, spec.shape[1:], spec.dtype)

    def action_space(self, agent: str) -> Any:
        """JaxMARL's `Discrete` or `Box` of an action. Raises MissingExtra without JaxMARL, ValueError for an unknown agent."""
        index = self._index(agent)
        spaces = import_extra("jaxmarl.environments.spaces", "jaxmarl")
        spec = self.environment.action_spec
        if hasattr(spec, "num_values"):
            return spaces.Discrete(int(np.asarray(spec.num_values)[index]))
        low = np.broadcast_to(spec.minimum, spec.shape)[index]
        high = np.broadcast_to(spec.maximum, spec.shape)[index]
        return spaces.Box(low, high, spec.shape[1:], spec.dtype)

    def _index(self, agent: str) -> int:
        if agent not in self.agents:
            raise ValueError(f"agent {agent!r}: unknown (agents: {self.agents[0]} to {self.agents[-1]})")
        return self.agents.index(agent)

    def _split(self, values: jax.Array) -> dict[str, jax.Array]:
        return {agent: values[index] for index, agent in enumerate(self.agents)}


def _state(inner: Any, timestep: TimeStep) -> DictState:
    return DictState(inner, timestep.observation, timestep.last(), timestep.observation.step_count)
