"""The particle worlds with rules="mpe2" against the package mpe2: every step from injected states."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_bench.envs.particles.actions import to_five_vector
from marl_bench.envs.particles.adversary import Adversary
from marl_bench.envs.particles.particle_world import State
from marl_bench.envs.particles.reference import Reference
from marl_bench.envs.particles.speaker_listener import SpeakerListener
from marl_bench.envs.particles.spread import Spread
from marl_bench.envs.particles.tag import Tag
from marl_bench.envs.particles.world import World

STEPS = [100, pytest.param(850, marks=pytest.mark.slow)]
"""Steps per world and kind of action; the slow run has more than 10,000 in all (12 * 850)."""

WORLDS = {
    "spread": (Spread, "simple_spread_v3"),
    "tag": (Tag, "simple_tag_v3"),
    "world": (World, "simple_world_comm_v3"),
    "speaker_listener": (SpeakerListener, "simple_speaker_listener_v4"),
    "reference": (Reference, "simple_reference_v3"),
    "adversary": (Adversary, "simple_adversary_v3"),
}


def peer(module: str, continuous: bool) -> Any:
    """The package's parallel environment, which never ends by itself here."""
    import importlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        environment = importlib.import_module(f"mpe2.{module}").parallel_env(
            continuous_actions=continuous, max_cycles=10**9
        )
        environment.reset(seed=0)
    return environment


def set_goal(world: Any, goal: np.ndarray) -> None:
    """Point the package's agents at the goals of one of our states, whose colours its observations show."""
    agents, landmarks = world.agents, world.landmarks
    if len(goal) == 2:
        agents[0].goal_b, agents[1].goal_b = landmarks[goal[1]], landmarks[goal[0]]
    elif hasattr(agents[0], "_goal_b"):
        agents[0].goal_b = landmarks[goal[0]]
    else:
        for agent in agents:
            agent.goal_a = landmarks[goal[0]]


def inject(world: Any, state: dict[str, np.ndarray], speakers: int) -> None:
    for index, agent in enumerate(world.agents):
        agent.state.p_pos = state["position"][index].astype(np.float64)
        agent.state.p_vel = state["velocity"][index].astype(np.float64)
        agent.state.c = np.zeros(world.dim_c)
        if index < speakers:
            agent.state.c = state["message"][index].astype(np.float64)
    for landmark, place in zip(world.landmarks, state["landmark"], strict=True):
        landmark.state.p_pos = place.astype(np.float64)
    if state["goal"] is not None:
        set_goal(world, state["goal"])


def drawn_state(env: Any, rng: np.random.Generator) -> dict[str, Any]:
    """A start state that a roll-out would seldom reach: crowded, inside forests and food, fast, far outside, by turns."""
    spread_out = rng.choice([0.1, 0.5, 1.0, 2.5])
    position = rng.uniform(-spread_out, spread_out, (env.num_bodies, 2))
    landmark = rng.uniform(-0.9, 0.9, (env.num_landmarks, 2)) * rng.choice([0.2, 1.0])
    if rng.random() < 0.3:
        position[rng.integers(env.num_bodies)] = landmark[rng.integers(env.num_landmarks)] + rng.normal(0, 0.02, 2)
    message = rng.dirichlet(np.ones(env.dim_message), env.num_speakers) if env.num_speakers else None
    velocity = rng.normal(0, 0.5, (env.num_bodies, 2))
    if isinstance(env, SpeakerListener):
        velocity[0] = 0
    state = {"position": position, "velocity": velocity, "landmark": landmark, "message": message}
    state = {name: None if value is None else value.astype(np.float32) for name, value in state.items()}
    state["goal"] = rng.integers(env.num_landmarks, size=env.num_goals).astype(np.int8) if env.num_goals else None
    return state


def drawn_actions(env: Any, rng: np.random.Generator) -> np.ndarray:
    if env.actions == "discrete":
        return rng.integers(env.num_values).astype(np.int32)
    spec = env.action_spec
    return rng.uniform(spec.minimum, spec.maximum, spec.shape).astype(np.float32)


def translated(env: Any, actions: np.ndarray) -> list[Any]:
    """Our joint action as the package's actions, agent by agent."""
    if env.actions == "discrete":
        return [int(action) for action in actions]
    five = np.asarray(to_five_vector(actions), np.float32)
    if isinstance(env, SpeakerListener):
        return [five[0, 5:], five[1, :5]]
    return [row if agent < env.num_speakers else row[:5] for agent, row in enumerate(five)]


def read(world: Any, env: Any) -> dict[str, Any]:
    said = [agent.state.c for agent in world.agents[: env.num_speakers]]
    return {
        "position": np.stack([agent.state.p_pos for agent in world.agents]),
        "velocity": np.stack([agent.state.p_vel for agent in world.agents]),
        "message": np.stack(said) if said else None,
    }


def play(env: Any, module: str, steps: int) -> tuple[list[Any], list[Any], list[Any]]:
    """(states before, actions, (rewards, views, state after)) of the package; a new start every 5 steps."""
    rng = np.random.default_rng(0)
    environment = peer(module, env.actions == "continuous")
    world = environment.unwrapped.world
    befores, actions, afters, state = [], [], [], {}
    for step in range(steps):
        if step % 5 == 0:
            state = drawn_state(env, rng)
        inject(world, state, env.num_speakers)
        action = drawn_actions(env, rng)
        played = dict(zip(environment.agents, translated(env, action), strict=True))
        views, rewards, *_ = environment.step(played)
        after = read(world, env)
        befores.append(state)
        actions.append(action)
        afters.append((np.array(list(rewards.values())), list(views.values()), after))
        kept = {name: None if value is None else value.astype(np.float32) for name, value in after.items()}
        state = {**state, **kept}
    return befores, actions, afters


def batched(env: Any, befores: list[dict[str, Any]]) -> State:
    def stack(name: str) -> jax.Array | None:
        return None if befores[0][name] is None else jnp.stack([before[name] for before in befores])

    count = jnp.zeros(len(befores), jnp.int32)
    parts = [stack(name) for name in ("position", "velocity", "landmark", "message", "goal")]
    return State(*parts, count, None)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("actions", ["discrete", "continuous"])
@pytest.mark.parametrize("name", WORLDS)
def test_steps_equal_the_package(name, actions, steps):
    cls, module = WORLDS[name]
    env = cls(rules="mpe2", actions=actions)
    befores, played, afters = play(env, module, steps)
    state, timestep = jax.jit(jax.vmap(env.step))(batched(env, befores), jnp.stack(played))
    for field in ("position", "velocity", "message"):
        ours = getattr(state, field)
        if ours is not None:
            np.testing.assert_allclose(ours, np.stack([after[field] for *_, after in afters]), rtol=0, atol=1e-5)
    rewards = np.stack([reward for reward, *_ in afters])
    assert rewards.std() > 0.1
    # Distances of a few lengths, and ten for a catch: 1e-5 relative to the largest.
    np.testing.assert_allclose(timestep.reward, rewards, rtol=1e-5, atol=1e-5)
    views = np.asarray(timestep.observation.agents_view)
    for agent, length in enumerate(env.obs_valid_len):
        theirs = np.stack([view[agent] for _, view, _ in afters])
        assert theirs.shape[1] == length
        np.testing.assert_allclose(views[:, agent, :length], theirs, rtol=1e-5, atol=1e-5)
        assert not views[:, agent, length:].any()
    if name in ("spread", "tag", "world"):
        touching = timestep.extras["metrics"]["collisions" if name == "spread" else "catches"]
        assert np.mean(np.asarray(touching) > 0) > 0.02


@pytest.mark.parametrize("name", WORLDS)
def test_spaces_are_the_packages(name):
    cls, module = WORLDS[name]
    for actions in ("discrete", "continuous"):
        env, environment = cls(actions=actions), peer(module, actions == "continuous")
        assert len(environment.possible_agents) == env.num_agents
        lengths = [environment.observation_space(agent).shape[0] for agent in environment.possible_agents]
        assert lengths == env.obs_valid_len.tolist()
        spaces = [environment.action_space(agent) for agent in environment.possible_agents]
        if actions == "discrete":
            assert [space.n for space in spaces] == env.num_values.tolist()


@pytest.mark.parametrize(("cls", "module"), [WORLDS["spread"], WORLDS["tag"]])
def test_success_ends_episodes_as_in_the_package(cls, module):
    import importlib

    env = cls(terminate_on_success=True)
    environment = importlib.import_module(f"mpe2.{module}").parallel_env(terminate_on_success=True)
    rng, ends = np.random.default_rng(1), []
    step = jax.jit(env.step)
    for _ in range(40):
        environment.reset(seed=0)
        state = drawn_state(env, rng)
        state["velocity"] *= 0
        if rng.random() < 0.5:  # everybody sits where it should
            state["position"][: len(state["landmark"])] = state["landmark"]
            if cls is Tag:
                state["position"][0] = state["position"][-1] + 0.05
        inject(environment.unwrapped.world, state, 0)
        *_, terminated, _, _ = environment.step(dict.fromkeys(environment.agents, 0))
        _, timestep = step(
            State(*[state[n] for n in ("position", "velocity", "landmark")], None, None, jnp.int32(3), None),
            jnp.zeros(env.num_agents, jnp.int32),
        )
        ends.append(bool(timestep.discount[0] == 0))
        assert ends[-1] == all(terminated.values())
    assert 5 < sum(ends) < 35
