"""Our environments as a PettingZoo `ParallelEnv` (extra: pettingzoo)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.adapters import spaces
from marl_bench.adapters.extras import import_extra
from marl_bench.environment import Environment, TimeStep


def to_pettingzoo(environment: Environment, seed: int | None = None) -> Any:
    """One of our environments as a `pettingzoo.ParallelEnv`.

    Observations are the agents' views; legal actions stand in `infos[agent]["action_mask"]` (int8 [A], discrete actions only).
    Nothing restarts by itself: after the last step, whose observation is the episode's own, `agents` is empty. An end by
    the game is a termination, an end by time a truncation. `state()` is `global_state`; `render()` gives uint8 [H, W, 3].

    Args:
      environment: ours.
      seed: seed of the first episode if `reset` is given none; None for one from the operating system.
    Raises:
      MissingExtra: where pettingzoo is not installed.
    """
    return _parallel_class()(environment, seed)


@functools.cache
def _parallel_class() -> type:
    base = import_extra("pettingzoo", "pettingzoo").ParallelEnv
    return type("MarlBenchParallelEnv", (_Parallel, base), {"__doc__": _Parallel.__doc__})


class _Parallel:
    """One of our environments with PettingZoo's parallel interface; see `to_pettingzoo`."""

    render_mode = "rgb_array"

    def __init__(self, environment: Environment, seed: int | None) -> None:
        self.environment = environment
        self.metadata = {
            "name": type(environment.unwrapped).__name__,
            "render_modes": ["rgb_array"],
            "is_parallelizable": True,
        }
        self.possible_agents = [f"agent_{index}" for index in range(environment.num_agents)]
        self.agents: list[str] = []
        self._spaces = {
            agent: (
                spaces.view_space(environment, "pettingzoo"),
                spaces.action_space(environment, index, "pettingzoo"),
            )
            for index, agent in enumerate(self.possible_agents)
        }
        self._reset, self._step = jax.jit(environment.reset), jax.jit(environment.step)
        self._key = jax.random.key(_entropy() if seed is None else seed)
        self._state: Any = None

    def observation_space(self, agent: str) -> Any:
        """Box of an agent's view."""
        return self._spaces[agent][0]

    def action_space(self, agent: str) -> Any:
        """Discrete or Box of an agent's action."""
        return self._spaces[agent][1]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Start an episode: the one of `seed`, or the next one."""
        del options
        if seed is not None:
            self._key = jax.random.key(seed)
        self._key, key = jax.random.split(self._key)
        self._state, timestep = self._reset(key)
        self.agents = list(self.possible_agents)
        return self._views(timestep), self._infos(timestep)

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Advance by one joint action: agent -> action, for every agent of the episode."""
        if not self.agents:
            # PettingZoo's own environments do the same when nobody is left.
            return {}, {}, {}, {}, {}
        joint = jnp.stack([jnp.asarray(actions[agent]) for agent in self.possible_agents])
        self._state, timestep = self._step(self._state, joint)
        last = bool(timestep.last())
        ended = np.asarray(timestep.discount) == 0
        rewards = dict(zip(self.possible_agents, np.asarray(timestep.reward).tolist(), strict=True))
        terminations = {agent: last and bool(end) for agent, end in zip(self.possible_agents, ended, strict=True)}
        truncations = {agent: last and not end for agent, end in terminations.items()}
        if last:
            self.agents = []
        return self._views(timestep), rewards, terminations, truncations, self._infos(timestep)

    def state(self) -> np.ndarray:
        """float32 [S]: the whole state. Raises NotImplementedError where the environment has no such view."""
        return np.asarray(self.environment.global_state(self._state))

    def render(self) -> np.ndarray:
        """uint8 [H, W, 3] picture of the current state."""
        return self.environment.render(self._state)

    def close(self) -> None:
        """Nothing is open."""

    def _views(self, timestep: TimeStep) -> dict[str, np.ndarray]:
        views = np.array(timestep.observation.agents_view)
        return {agent: views[index] for index, agent in enumerate(self.possible_agents)}

    def _infos(self, timestep: TimeStep) -> dict[str, dict[str, Any]]:
        metrics = {name: float(value) for name, value in timestep.extras["metrics"].items()}
        if not hasattr(self.environment.action_spec, "num_values"):
            return {agent: dict(metrics) for agent in self.possible_agents}
        masks = np.asarray(timestep.observation.action_mask).astype(np.int8)
        infos = {}
        for index, agent in enumerate(self.possible_agents):
            infos[agent] = {**metrics, "action_mask": masks[index, : self.action_space(agent).n]}
        return infos


def _entropy() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])
