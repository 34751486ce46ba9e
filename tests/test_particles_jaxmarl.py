"""The particle worlds with rules="jaxmarl" against JaxMARL: steps from its own states, integers and five-vectors."""

from __future__ import annotations

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

jaxmarl = pytest.importorskip("jaxmarl")

WORLDS = {
    "spread": (Spread, "MPE_simple_spread_v3"),
    "tag": (Tag, "MPE_simple_tag_v3"),
    "world": (World, "MPE_simple_world_comm_v3"),
    "speaker_listener": (SpeakerListener, "MPE_simple_speaker_listener_v4"),
    "reference": (Reference, "MPE_simple_reference_v3"),
    "adversary": (Adversary, "MPE_simple_adversary_v3"),
}
BATCH = 256


def translated(env: Any, agents: list[str], actions: jax.Array) -> dict[str, jax.Array]:
    """Our joint action [N] or [N, D] as theirs."""
    if env.actions == "discrete":
        return {name: actions[index] for index, name in enumerate(agents)}
    five = to_five_vector(actions)
    if isinstance(env, SpeakerListener):
        return {agents[0]: five[0, 5:], agents[1]: five[1, :5]}
    width = five.shape[-1]
    return {name: five[i] if i < env.num_speakers else five[i, : min(width, 5)] for i, name in enumerate(agents)}


def as_ours(env: Any, state: Any) -> State:
    """Their state as ours."""
    goal = None if not env.num_goals else jnp.asarray(state.goal, jnp.int8).reshape(env.num_goals)
    bodies = env.num_bodies
    return State(
        position=state.p_pos[:bodies],
        velocity=state.p_vel[:bodies],
        landmark=state.p_pos[bodies:],
        message=state.c[: env.num_speakers] if env.num_speakers else None,
        goal=goal,
        step_count=jnp.asarray(state.step, jnp.int32),
        key=None,
    )


def crowded(state: Any, key: jax.Array) -> Any:
    """Their start state, drawn together and moving, so that bodies touch."""
    key_scale, key_speed = jax.random.split(key)
    scale = jax.random.choice(key_scale, jnp.array([0.2, 0.5, 1.0, 2.0]))
    bodies = state.c.shape[0]
    velocity = 0.5 * jax.random.normal(key_speed, (bodies, 2))
    return state.replace(p_pos=state.p_pos * scale, p_vel=state.p_vel.at[:bodies].set(velocity))


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
@pytest.mark.parametrize("name", WORLDS)
def test_steps_equal_jaxmarl(name, actions):
    cls, identifier = WORLDS[name]
    env = cls(rules="jaxmarl", actions=actions)
    peer = jaxmarl.make(identifier, action_type="Discrete" if actions == "discrete" else "Continuous")

    def both(key: jax.Array) -> Any:
        key_reset, key_crowd, key_act, key_step = jax.random.split(key, 4)
        _, start = peer.reset(key_reset)
        start = crowded(start, key_crowd)
        if name == "speaker_listener":
            start = start.replace(p_vel=start.p_vel.at[0].set(0))
        if actions == "discrete":
            played = jax.random.randint(key_act, (env.num_agents,), 0, jnp.asarray(env.num_values))
        else:
            spec = env.action_spec
            played = jax.random.uniform(key_act, spec.shape, minval=spec.minimum, maxval=spec.maximum)
        views, after, rewards, _, _ = peer.step_env(key_step, start, translated(env, peer.agents, played))
        return env.step(as_ours(env, start), played), (views, as_ours(env, after), rewards)

    (state, timestep), (views, after, rewards) = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), BATCH))
    for field in ("position", "velocity", "message"):
        if getattr(after, field) is not None:
            np.testing.assert_allclose(getattr(state, field), getattr(after, field), rtol=1e-5, atol=1e-5)
    theirs = np.stack([np.asarray(rewards[agent], np.float32).reshape(BATCH) for agent in peer.agents], axis=1)
    assert theirs.std() > 0.1
    # A distance that rounds to the other side of a threshold may happen in a few of many pairs; none does here.
    np.testing.assert_allclose(timestep.reward, theirs, rtol=1e-5, atol=1e-4)
    ours = np.asarray(timestep.observation.agents_view)
    for index, agent in enumerate(peer.agents):
        length = env.obs_valid_len[index]
        np.testing.assert_allclose(ours[:, index, :length], views[agent], rtol=1e-5, atol=1e-5)


def test_episodes_have_as_many_steps():
    env, peer = Spread(rules="jaxmarl"), jaxmarl.make("MPE_simple_spread_v3")
    _, start = peer.reset(jax.random.key(0))
    idle = dict.fromkeys(peer.agents, jnp.int32(0))

    def body(state: Any, _: Any) -> Any:
        _, state, _, dones, _ = peer.step_env(jax.random.key(1), state, idle)
        return state, dones["__all__"]

    ends = jax.jit(lambda state: jax.lax.scan(body, state, None, 40)[1])(start)
    assert int(np.argmax(ends)) + 1 == env.last_step == env.fixed_horizon == 26
