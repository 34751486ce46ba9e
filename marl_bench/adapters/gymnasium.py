"""One agent of our environments as a Gymnasium environment, against policies for the others (extra: gymnasium)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.adapters import spaces
from marl_bench.adapters.extras import import_extra
from marl_bench.environment import Environment, ScriptedPolicy
from marl_bench.scripted import scripted_policy
from marl_bench.vector import VectorEnvironment


def to_gymnasium(
    environment: Environment,
    num_envs: int | None = None,
    *,
    agent: int = 0,
    others: str | ScriptedPolicy = "random",
    seed: int | None = None,
    strategy: str = "auto",
) -> Any:
    """One agent's view of one of our environments, or of a batch of them, on the device.

    Without `num_envs`, a `gymnasium.Env`: an episode's last observation is its own, and nothing restarts by itself. With it, a
    `gymnasium.vector.VectorEnv` that restarts in the step that ends an episode (`AutoresetMode.SAME_STEP`): the observation is
    the next episode's first, `infos["final_obs"]` [num_envs, ...] the true successor, `infos["_final_obs"]` says where.
    Terminated means that the game ended, truncated that time did. `infos["action_mask"]` (int8) holds the legal actions.

    Args:
      environment: ours, with at least one agent.
      num_envs: size of the batch; None for a single environment.
      agent: index of the agent that is played through the interface.
      others: policy of all others: a name (`marl_bench.scripted.scripted_policy`) or `policy(state, observation, key) -> [N]`.
      seed: seed used until `reset` is given one; None for one from the operating system.
      strategy: how a batch restarts, see `VectorEnvironment`.
    Raises:
      MissingExtra: where gymnasium is not installed. ValueError: for an agent that does not exist.
      LookupError: for an unknown policy.
    """
    if not 0 <= agent < environment.num_agents:
        raise ValueError(f"agent={agent}: must be between 0 and {environment.num_agents - 1}")
    policy = scripted_policy(environment, others) if isinstance(others, str) else others
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    if num_envs is None:
        return _class("Env")(environment, agent, policy, seed)
    return _class("VectorEnv")(environment, agent, policy, seed, num_envs, strategy)


@functools.cache
def _class(kind: str) -> type:
    gymnasium = import_extra("gymnasium", "gymnasium")
    if kind == "Env":
        return type("MarlBenchEnv", (_Single, gymnasium.Env), {"__doc__": _Single.__doc__})
    base = import_extra("gymnasium.vector", "gymnasium").VectorEnv
    return type("MarlBenchVectorEnv", (_Vector, base), {"__doc__": _Vector.__doc__})


class _Batch:
    """B environments in which one agent is played from outside; B = 1 without restart for a single one."""

    def __init__(self, environment: Environment, agent: int, policy: ScriptedPolicy, seed: int) -> None:
        self.environment, self.agent, self._policy = environment, agent, policy
        self._key = jax.random.key(seed)
        self._state: Any = None
        self._observation: Any = None

    def _joint(self, state: Any, observation: Any, action: jax.Array, key: jax.Array) -> jax.Array:
        """[N] actions of one environment: the policy's, but for the one agent."""
        joint = self._policy(state, observation, key)
        return joint.at[self.agent].set(action.astype(joint.dtype))

    def _reseed(self, seed: int | None) -> jax.Array:
        if seed is not None:
            self._key = jax.random.key(seed)
        return self._next_key()

    def _next_key(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key

    def _mask(self, observation: Any) -> dict[str, np.ndarray]:
        """{"action_mask": [..., A_i]} of the agent; empty for continuous actions."""
        if not hasattr(self.environment.action_spec, "num_values"):
            return {}
        size = int(np.asarray(self.environment.action_spec.num_values)[self.agent])
        return {"action_mask": np.asarray(observation.action_mask[..., self.agent, :size]).astype(np.int8)}


class _Single(_Batch):
    """One agent of one environment; see `to_gymnasium`."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, environment: Environment, agent: int, policy: ScriptedPolicy, seed: int) -> None:
        super().__init__(environment, agent, policy, seed)
        self.observation_space = spaces.view_space(environment, "gymnasium")
        self.action_space = spaces.action_space(environment, agent, "gymnasium")

        def advance(state: Any, observation: Any, action: jax.Array, key: jax.Array) -> Any:
            return environment.step(state, self._joint(state, observation, action, key))

        self._start, self._advance = jax.jit(environment.reset), jax.jit(advance)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode: the one of `seed`, or the next one."""
        super().reset(seed=seed, options=options)  # type: ignore[misc]
        self._state, timestep = self._start(self._reseed(seed))
        self._observation = timestep.observation
        return self._view(), self._mask(self._observation)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Advance by one action of the agent."""
        self._state, timestep = self._advance(self._state, self._observation, jnp.asarray(action), self._next_key())
        self._observation = timestep.observation
        last, ended = bool(timestep.last()), bool(timestep.discount[self.agent] == 0)
        infos = {**self._mask(self._observation), **{n: float(v) for n, v in timestep.extras["metrics"].items()}}
        return self._view(), float(timestep.reward[self.agent]), last and ended, last and not ended, infos

    def render(self) -> np.ndarray:
        """uint8 [H, W, 3] picture of the current state."""
        return self.environment.render(self._state)

    def close(self) -> None:
        """Nothing is open."""

    def _view(self) -> np.ndarray:
        return np.array(self._observation.agents_view[self.agent])


class _Vector(_Batch):
    """One agent in each environment of a batch; see `to_gymnasium`."""

    def __init__(
        self, environment: Environment, agent: int, policy: ScriptedPolicy, seed: int, num_envs: int, strategy: str
    ) -> None:
        super().__init__(environment, agent, policy, seed)
        vector = import_extra("gymnasium.vector", "gymnasium")
        batch_space = import_extra("gymnasium.vector.utils", "gymnasium").batch_space
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": vector.AutoresetMode.SAME_STEP, "render_modes": ["rgb_array"]}
        self.render_mode = "rgb_array"
        self.spec = None
        self.single_observation_space = spaces.view_space(environment, "gymnasium")
        self.single_action_space = spaces.action_space(environment, agent, "gymnasium")
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        batch = VectorEnvironment(environment, num_envs, strategy)

        def advance(state: Any, observation: Any, actions: jax.Array, key: jax.Array) -> Any:
            joint = jax.vmap(self._joint)(state.inner, observation, actions, jax.random.split(key, num_envs))
            return batch.step(state, joint)

        self._start, self._advance = jax.jit(batch.reset), jax.jit(advance)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode in every environment; `seed` is one number for the batch."""
        del options
        self._state, timestep = self._start(self._reseed(seed))
        self._observation = timestep.observation
        return self._view(self._observation), self._mask(self._observation)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Advance all environments: actions [num_envs, ...] of the agent."""
        self._state, timestep = self._advance(self._state, self._observation, jnp.asarray(actions), self._next_key())
        self._observation = timestep.observation
        last = np.asarray(timestep.last())
        ended = np.asarray(timestep.discount[:, self.agent]) == 0
        infos = self._mask(self._observation)
        if last.any():
            infos |= {"final_obs": self._view(timestep.extras["final_observation"]), "_final_obs": last}
        reward = np.asarray(timestep.reward[:, self.agent], np.float64)
        return self._view(self._observation), reward, last & ended, last & ~ended, infos

    def render(self) -> tuple[np.ndarray, ...]:
        """One uint8 [H, W, 3] picture for each environment."""
        states = [jax.tree.map(lambda leaf, index=i: leaf[index], self._state.inner) for i in range(self.num_envs)]
        return tuple(self.environment.render(state) for state in states)

    def close_extras(self, **kwargs: Any) -> None:
        """Nothing is open."""

    def _view(self, observation: Any) -> np.ndarray:
        return np.array(observation.agents_view[:, self.agent])
