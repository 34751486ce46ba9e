"""The particle worlds with rules="omar": against a NumPy oracle step by step, and against published return statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import particles_oracle as oracle
import pytest

from marl_bench.envs.particles.particle_world import State
from marl_bench.envs.particles.spread import Spread
from marl_bench.envs.particles.tag import Tag
from marl_bench.envs.particles.world import World
from marl_bench.scripted import random_policy

WORLDS = {"spread": Spread, "tag": Tag, "world": World}
COUNT = 300


def corner_states(name: str, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(position, velocity, landmark): what random starts seldom show (spec env_mpe.md section 10.2)."""
    size, bodies = oracle.BODIES[name]["size"], len(oracle.BODIES[name]["size"])
    landmarks = {"spread": 3, "tag": 2, "world": 5}[name]
    base = np.array([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])[:bodies]
    places = np.array([[0.0, 0.8], [0.8, 0.0], [0.0, -0.8], [-0.8, 0.0], [0.0, 0.0]])[:landmarks]
    still, states = np.zeros((bodies, 2)), []

    def add(position: np.ndarray, velocity: np.ndarray = still, landmark: np.ndarray = places) -> None:
        states.append((position.copy(), velocity.copy(), landmark.copy()))

    for gap in (0.01, 0.3):  # far inside each other; and touching exactly
        crowded = base.copy()
        crowded[-1] = crowded[0] + [gap * (size[0] + size[-1]) / 0.3 if gap == 0.3 else gap, 0]
        add(crowded)
    on_landmark = base.copy()
    on_landmark[0] = places[0] + [0.05, 0]  # on an obstacle; or within the cap of spread
    add(on_landmark)
    for far in (0.95, 1.05, 2.2, 30.0):  # the last body on every branch of the penalty
        outside = base.copy()
        outside[-1] = [far, -far]
        add(outside)
    add(base, rng.normal(0, 3, (bodies, 2)))  # faster than allowed
    for place in places:  # on food; in one forest
        at_place = base.copy()
        at_place[-1], at_place[0] = place + np.array([0.01, 0.02]), place - np.array([0.15, 0.1])
        add(at_place)
    if name == "world":  # in both forests
        both = places.copy()
        both[4] = both[3] + np.array([0.1, 0])
        at_place = base.copy()
        at_place[-1] = both[3] + [0.05, 0.05]
        add(at_place, landmark=both)
    return states


def drawn_states(name: str) -> tuple[np.ndarray, ...]:
    """Corner states, then random ones from crowded to far apart: (position, velocity, landmark), each [COUNT, ...]."""
    rng = np.random.default_rng(3)
    states = corner_states(name, rng)
    bodies, landmarks = states[0][0].shape[0], states[0][2].shape[0]
    while len(states) < COUNT:
        spread = rng.choice([0.15, 0.5, 1.0, 2.5])
        velocity = rng.normal(0, 0.5, (bodies, 2))
        states.append((rng.uniform(-spread, spread, (bodies, 2)), velocity, rng.uniform(-0.9, 0.9, (landmarks, 2))))
    position, velocity, landmark = (np.stack(part).astype(np.float32) for part in zip(*states, strict=True))
    return position, velocity, landmark


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
@pytest.mark.parametrize("name", WORLDS)
def test_steps_equal_the_oracle(name, actions):
    env = WORLDS[name](rules="omar", actions=actions)
    position, velocity, landmark = drawn_states(name)
    rng = np.random.default_rng(4)
    shape = (COUNT, env.num_agents)
    played = (
        rng.integers(5, size=shape) if actions == "discrete" else rng.uniform(-1, 1, (*shape, 2)).astype(np.float32)
    )
    state = State(*map(jnp.asarray, (position, velocity, landmark)), None, None, jnp.zeros(COUNT, jnp.int32), None)
    after, timestep = jax.jit(jax.vmap(env.step))(state, jnp.asarray(played))
    views = np.asarray(timestep.observation.agents_view)
    for k in range(COUNT):
        place = landmark[k].astype(float)
        moved, moving = oracle.step(name, position[k].astype(float), velocity[k].astype(float), place, played[k])
        np.testing.assert_allclose(after.position[k], moved, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(after.velocity[k], moving, rtol=1e-6, atol=2e-5)
        # From our own next state: on the far side of a threshold two roundings would differ by a whole reward.
        ours = [np.asarray(part[k], float) for part in (after.position, after.velocity)]
        np.testing.assert_allclose(timestep.reward[k], oracle.rewards(name, ours[0], place), rtol=1e-5, atol=1e-4)
        for i, length in enumerate(env.obs_valid_len):
            wanted = oracle.view(name, *ours, place, i)
            assert len(wanted) == length
            np.testing.assert_allclose(views[k, i, :length], wanted, rtol=1e-5, atol=1e-5)
            assert not views[k, i, length:].any()


def test_the_corner_states_are_where_they_should_be():
    position, velocity, landmark = drawn_states("world")
    bodies = oracle.BODIES["world"]
    gaps = np.linalg.norm(position[:, :3] - position[:, 3:], axis=-1)
    assert (gaps < 0.02).any() and np.isclose(gaps, bodies["size"][0] + bodies["size"][3], atol=1e-7).any()
    inside = np.linalg.norm(position[:, 3:, None] - landmark[:, None, 3:], axis=-1) < 0.345
    assert set(inside.sum(axis=(1, 2))) == {0, 1, 2}
    assert (np.linalg.norm(velocity, axis=-1) > 1.3).any()
    assert (np.linalg.norm(position[:, 3:] - landmark[:, 1:3], axis=-1) < 0.075).any()
    assert (np.abs(position) > 1 + np.log(10) / 2).any()


# --- statistics ----------------------------------------------------------------------------------------------

RETURNS = {
    # (world, rules, actions): (mean, deviation) of an agent's return; in tag of a predator's, then of the prey's.
    ("spread", "omar", "discrete"): [(157.8, 58.6)],
    ("spread", "omar", "continuous"): [(160.6, 60.3)],
    ("spread", "mpe2", "discrete"): [(-26.4, 7.9)],
    ("spread", "mpe2", "continuous"): [(-26.0, 7.9)],
    ("spread", "jaxmarl", "discrete"): [(-27.6, 8.3)],
    ("spread", "jaxmarl", "continuous"): [(-27.4, 8.3)],
    ("tag", "omar", "discrete"): [(-4.8, 11.5), (-14.9, 26.7)],
    ("tag", "omar", "continuous"): [(-5.3, 11.4), (-16.7, 29.2)],
    ("tag", "mpe2", "discrete"): [(4.4, 10.7), (-15.9, 19.9)],
    ("tag", "mpe2", "continuous"): [(4.1, 10.5), (-14.5, 18.7)],
    ("tag", "jaxmarl", "discrete"): [(4.6, 11.0), (-16.8, 21.2)],
    ("tag", "jaxmarl", "continuous"): [(4.3, 10.7), (-15.3, 19.9)],
}
"""Uniform play, 20,000 episodes of a program that follows the three packages (spec env_mpe.md section 7)."""

EPISODES = 20_000
_FAST = [("spread", "omar", "continuous"), ("tag", "omar", "discrete"), ("spread", "mpe2", "discrete")]


def returns(env, policy, episodes=EPISODES, seed=0):
    """[episodes, N] returns of whole episodes."""

    def play(key):
        key_reset, key_play = jax.random.split(key)
        state, timestep = env.reset(key_reset)

        def body(carry, key):
            state, timestep = env.step(carry[0], policy(carry[0], carry[1], key))
            return (state, timestep.observation), timestep.reward

        keys = jax.random.split(key_play, env.last_step)
        return jax.lax.scan(body, (state, timestep.observation), keys)[1].sum(axis=0)

    return np.asarray(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(seed), episodes)))


@pytest.mark.parametrize(
    "setting", [pytest.param(s, marks=[] if s in _FAST else pytest.mark.slow, id="-".join(s)) for s in RETURNS]
)
def test_uniform_play_returns_what_the_references_do(setting):
    name, rules, actions = setting
    env = WORLDS[name](rules=rules, actions=actions)
    scores = returns(env, random_policy(env))
    groups = [scores.mean(axis=1)] if name == "spread" else [scores[:, 0], scores[:, 3]]
    for found, (mean, deviation) in zip(groups, RETURNS[setting], strict=True):
        # Both means have an error, and the stated one is rounded.
        error = deviation * (2 / EPISODES) ** 0.5
        assert abs(found.mean() - mean) < 4 * error + 0.05
        assert abs(found.std() - deviation) < 0.05 * deviation


def test_uniform_spread_returns_what_the_offline_data_state():
    env = Spread(rules="omar", actions="continuous")
    scores = returns(env, random_policy(env), seed=1).mean(axis=1)
    # 159.4 +- 60.3 over 2,000 episodes (cfcql.md section 6), 159.57 +- 60.46 over 40,000 on the data's card.
    assert abs(scores.mean() - 159.4) < 4 * 60.3 * (1 / 2000 + 1 / EPISODES) ** 0.5
    assert abs(scores.mean() - 159.57) < 4 * 60.46 * (1 / 40_000 + 1 / EPISODES) ** 0.5
    assert abs(scores.std() - 60.3) < 2.0
