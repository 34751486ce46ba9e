"""Returns beside the peer's loop: both sides play the same game and are judged alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("jaxmarl")

from marl_bench import make
from marl_bench.envs.particles.particle_world import State
from marl_bench.experiments import peer_returns
from marl_bench.experiments.peer_ppo import jaxmarl_hunt


def test_the_peers_hunt_is_our_tag_with_a_prey_that_flees():
    """An episode's 26 steps of the same moves from the same starts: views and rewards, also where bodies touch."""
    env, peer, count = make("tag", rules="jaxmarl", prey="flee"), jaxmarl_hunt(64), 64
    theirs, views, _ = peer.reset(jax.random.key(0))
    bodies = env.num_bodies
    ours = State(
        position=theirs.p_pos[:, :bodies],
        velocity=theirs.p_vel[:, :bodies],
        landmark=theirs.p_pos[:, bodies:],
        message=None,
        goal=None,
        step_count=theirs.step,
        key=None,
    )

    def step(carry, key):
        theirs, ours = carry
        moves = jax.random.randint(key, (count, peer.num_agents), 0, peer.num_actions)
        theirs, views, _, rewards, ended = peer.step(key, theirs, moves)
        ours, timestep = jax.vmap(env.step)(ours, moves)
        return (theirs, ours), (views, rewards, ended, timestep)

    keys = jax.random.split(jax.random.key(1), peer_returns.HORIZON)
    _, (views, rewards, ended, timestep) = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))((theirs, ours))
    assert np.asarray(rewards).max() >= 10
    np.testing.assert_array_equal(timestep.last(), ended)
    # A contact magnifies what rounding leaves: few of 64 episodes may drift apart.
    same = np.isclose(timestep.observation.agents_view[:-1], views[:-1], atol=1e-3).all(axis=(0, 2, 3))
    assert same.mean() > 0.95
    np.testing.assert_array_equal(np.asarray(timestep.reward)[:-1, same], np.asarray(rewards)[:-1, same])


def test_a_time_limit_that_is_an_end():
    env = make("spread", horizon=2)
    state, _ = env.reset(jax.random.key(0))
    idle = jnp.zeros(env.num_agents, jnp.int32)
    for wrapped, discount in ((env, 1.0), (peer_returns.LimitIsEnd(env), 0.0)):
        following, middle = wrapped.step(state, idle)
        last = wrapped.step(following, idle)[1]
        assert bool(jnp.all(last.last()))
        np.testing.assert_array_equal((middle.discount, last.discount), [[1.0] * 3, [discount] * 3])


@pytest.mark.slow
@pytest.mark.parametrize(("world", "random", "tolerance"), [("spread", -27.6, 2.5)])
def test_all_sides_begin_at_the_return_of_random_play(world, random, tolerance):
    """After two updates. -27.6 in JaxMARL's rules (specification: sd of an episode 8.3, an agent's)."""
    found = peer_returns.compare(world, steps=4096, seeds=2)
    assert found["steps"] == 4096
    for side in ("ours", "ours_ending", "peer"):
        assert len(found[side]["returns"]) == 2
        np.testing.assert_allclose(found[side]["returns"], random, atol=tolerance)
        low, high = found[side]["mean"][1:]
        assert low <= found[side]["mean"][0] <= high
    low, high = found["ours_minus_peer"][1:]
    assert low <= found["ours"]["mean"][0] - found["peer"]["mean"][0] <= high
