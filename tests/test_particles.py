"""The particle worlds as environments: fields, actions, prey, episodes, global state, scripted policies, conformance."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench.envs.particles import prey as preys
from marl_bench.envs.particles.actions import from_five_vector, to_five_vector
from marl_bench.envs.particles.adversary import Adversary
from marl_bench.envs.particles.reference import Reference
from marl_bench.envs.particles.speaker_listener import SpeakerListener
from marl_bench.envs.particles.spread import Spread
from marl_bench.envs.particles.tag import Tag
from marl_bench.envs.particles.world import World
from marl_bench.vector import VectorEnvironment

WORLDS = {
    "spread": Spread,
    "tag": Tag,
    "world": World,
    "speaker_listener": SpeakerListener,
    "reference": Reference,
    "adversary": Adversary,
}
EVERY = [
    (name, rules, actions)
    for name, cls in WORLDS.items()
    for rules in cls.DIALECTS
    for actions in ("discrete", "continuous")
]
_FAST = [("spread", "omar", "continuous"), ("world", "mpe2", "discrete")]


def slowly(settings, fast):
    return [pytest.param(*s, marks=[] if s in fast else pytest.mark.slow, id="-".join(map(str, s))) for s in settings]


@pytest.mark.parametrize(("name", "rules", "actions"), slowly(EVERY, _FAST))
def test_conforms(name, rules, actions):
    env = marl_bench.make(name, rules=rules, actions=actions)
    assert type(env) is WORLDS[name]
    assert marl_bench.check_environment(env, num_steps=30) == []


@pytest.mark.parametrize(
    "preset", slowly([(name,) for name in ("omar_tag", "omar_world", "simple_tag")], [("omar_tag",)])
)
def test_presets_conform(preset):
    assert marl_bench.check_environment(marl_bench.make(preset), num_steps=30) == []


@pytest.mark.parametrize("prey", slowly([(name,) for name in ("random", "still", "trained")], [("random",)]))
def test_frozen_prey_conform(prey):
    env = Tag(prey=prey, prey_params=preys.init_prey(jax.random.key(0), 14) if prey == "trained" else None)
    assert marl_bench.check_environment(env, num_steps=30) == []


# --- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (Spread, {"rules": "mpe"}, "did you mean mpe2|one of mpe2"),
        (Reference, {"rules": "omar"}, "has no such dialect, use mpe2 or jaxmarl"),
        (Adversary, {"rules": "omar"}, "has no such dialect"),
        (SpeakerListener, {"rules": "omar"}, "has no such dialect"),
        (Spread, {"rules": "omar", "agents": 11}, "agents=11: rules='omar' has at most 10"),
        (Spread, {"actions": "both"}, "actions='both'"),
        (Spread, {"damping": 1.5}, "damping=1.5"),
        (Spread, {"local_ratio": -0.1}, "local_ratio=-0.1"),
        (Tag, {"prey": "hunt"}, "prey='hunt'"),
        (Tag, {"prey": "trained"}, "needs prey_params"),
        (Tag, {"prey": "trained", "prey_params": "wide"}, r"prey_params.mean: shape \(22,\)"),
        (World, {"food": 0}, "food=0"),
    ],
)
def test_bad_fields_are_named(cls, fields, message):
    if fields.get("prey_params") == "wide":
        fields = {**fields, "prey_params": preys.init_prey(jax.random.key(0), 22)}
    with pytest.raises(ValueError, match=message):
        cls(**fields)


# --- actions -------------------------------------------------------------------------------------------------


def test_five_vectors_round_trip():
    ours = np.random.default_rng(0).uniform(-1, 1, (50, 3, 6)).astype(np.float32)
    five = np.asarray(to_five_vector(ours))
    assert five.shape == (50, 3, 9) and five.min() >= -1 and (five[..., :5] >= 0).all() and not five[..., 0].any()
    np.testing.assert_array_equal(from_five_vector(five), ours)


@pytest.mark.parametrize(("rules", "first"), [("mpe2", -1), ("jaxmarl", -1), ("omar", 1)])
def test_integer_one_goes_left_but_right_in_the_old_engine(rules, first):
    env = Spread(rules=rules)
    state = spread_out(env)
    after, _ = env.step(state, jnp.array([1, 3, 0]))
    np.testing.assert_allclose(after.velocity, [[0.5 * first, 0], [0, 0.5 * first], [0, 0]], atol=1e-6)


def test_mpe2_moves_one_step_later_than_the_old_engine():
    push = jnp.array([[1.0, 0.0], [0.0, -1.0], [0.5, 0.5]])
    late, early = Spread(actions="continuous"), Spread(rules="omar", actions="continuous")
    state = spread_out(late)
    np.testing.assert_array_equal(late.step(state, push)[0].position, state.position)
    np.testing.assert_allclose(early.step(state, push)[0].position, state.position + 0.05 * push, atol=1e-6)


def spread_out(env):
    """A state in which nobody touches anybody."""
    state, _ = env.reset(jax.random.key(0))
    return state.replace(position=jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize(
    ("env", "values"),
    [
        (World(), [20, 5, 5, 5, 5, 5]),
        (World(rules="omar"), [5, 5, 5, 5]),
        (SpeakerListener(), [3, 5]),
        (Reference(), [50, 50]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_speakers_have_more_actions(env, values):
    _, timestep = env.reset(jax.random.key(0))
    assert env.action_spec.num_values.tolist() == values == env.num_values.tolist()
    assert timestep.observation.action_mask.sum(axis=1).tolist() == values


# --- prey ----------------------------------------------------------------------------------------------------


def test_a_frozen_prey_plays_on_the_state_before_the_step():
    params = preys.init_prey(jax.random.key(1), 14)
    params = params._replace(mean=params.mean + 0.1, variance=params.variance * 2)
    free, frozen = (Tag(rules="omar", actions="continuous", prey=p, prey_params=params) for p in ("agent", "trained"))
    state, timestep = free.reset(jax.random.key(2))
    view = np.asarray(timestep.observation.agents_view)[3, :14]
    hidden = (view - 0.1) / np.sqrt(2 + 1e-5)
    for weight, bias in zip(params.weights[:2], params.biases[:2], strict=True):
        hidden = np.maximum(hidden @ np.asarray(weight) + np.asarray(bias), 0)
    played = np.tanh(hidden @ np.asarray(params.weights[2]) + np.asarray(params.biases[2]))
    push = np.random.default_rng(0).uniform(-1, 1, (3, 2)).astype(np.float32)
    one, first = frozen.step(state, jnp.asarray(push))
    two, second = free.step(state, jnp.concatenate([jnp.asarray(push), jnp.asarray(played)[None]]))
    np.testing.assert_allclose(one.position, two.position, atol=1e-6)
    assert frozen.num_agents == 3 and np.abs(played).max() > 0.01
    np.testing.assert_allclose(first.reward, second.reward[:3], atol=1e-5)
    np.testing.assert_allclose(first.observation.agents_view, second.observation.agents_view[:3], atol=1e-5)
    clipped = preys.network(params, jnp.asarray(view), "clip")
    np.testing.assert_allclose(clipped, np.clip(np.arctanh(played), -1, 1), atol=1e-5)


def test_prey_flee_from_the_nearest_and_return_from_the_edge():
    def fled(prey, predators):
        prey, predators = np.array(prey, np.float32), np.array(predators, np.float32)
        x, y = preys.flee((prey[None, 0], prey[None, 1]), (predators[:, 0], predators[:, 1]))
        return [float(x[0]), float(y[0])]

    np.testing.assert_allclose(fled([0, 0], [[0.5, 0], [0.5, 0]]), [-1, 0], atol=1e-6)
    # Weights 1 / 0.01 and 1 / 1: their mean is (0.1 * 100 - 1) / 101 away, on the side of the near one.
    assert fled([0, 0], [[0.1, 0], [-1.0, 0]])[0] == pytest.approx(-1)
    np.testing.assert_allclose(fled([0.9, 0], [[0.5, 0], [0.5, 0]]), [1 - 1.8, 0], atol=1e-6)
    assert np.isfinite(fled([0.2, 0.2], [[0.2, 0.2]])).all()


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_a_random_prey_draws_anew_in_every_step_and_evenly(actions):
    env = Tag(actions=actions, prey="random")

    def push(key, step):
        state, _ = env.reset(key)
        return env.prey_draw(state.replace(step_count=step))

    keys = jax.random.split(jax.random.key(0), 4000)
    first, second = (np.asarray(jax.vmap(push, (0, None))(keys, jnp.int32(step)))[:, 0] for step in (0, 1))
    assert 0.1 < np.mean(np.all(first == second, axis=1)) < 0.3 if actions == "discrete" else (first != second).all()
    np.testing.assert_allclose(first.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(first.var(axis=0), 0.4 if actions == "discrete" else 1 / 3, atol=0.03)
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.08


def test_prey_files_round_trip_and_pickles_are_refused(tmp_path):
    params = preys.init_prey(jax.random.key(0), 22)
    preys.save_prey(tmp_path / "prey.safetensors", params)
    loaded = preys.load_prey(tmp_path / "prey.safetensors")
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (tmp_path / "prey.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"pickled file can run code; convert it .*save_file"):
        preys.load_prey(tmp_path / "prey.pt")
    (tmp_path / "other.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="is no safetensors file"):
        preys.load_prey(tmp_path / "other.safetensors")
    from safetensors.numpy import save_file

    save_file({"fc1.weight": np.zeros((64, 22), np.float32)}, str(tmp_path / "part.safetensors"))
    with pytest.raises(ValueError, match=r"lacks in_fn.running_mean.*it has fc1.weight"):
        preys.load_prey(tmp_path / "part.safetensors")
    with pytest.raises(FileNotFoundError, match="not shipped"):
        preys.load_prey(tmp_path / "absent.safetensors")


# --- views for critics and readers ---------------------------------------------------------------------------


def test_global_state_holds_everything_or_all_views():
    env = SpeakerListener()
    state, timestep = env.reset(jax.random.key(3))
    state, timestep = env.step(state, jnp.array([2, 1]))
    goal = np.eye(3)[int(state.goal[0])]
    parts = [state.position, state.landmark, state.velocity, goal, [1 / 25], [0, 0, 1]]
    np.testing.assert_allclose(env.global_state(state), np.concatenate([np.ravel(part) for part in parts]), rtol=1e-6)
    for views, size in ((Spread(), 54), (Tag(prey="still"), 48), (World(rules="omar", prey="still"), 72)):
        views = dataclasses.replace(views, global_view="views")
        state, timestep = views.reset(jax.random.key(0))
        found = views.global_state(state)
        assert found.shape == (size,)
        np.testing.assert_allclose(found, np.ravel(timestep.observation.agents_view), rtol=1e-6)


@pytest.mark.parametrize("name", WORLDS)
def test_pictures_show_all_bodies(name):
    env = WORLDS[name]()
    state, _ = env.reset(jax.random.key(0))
    picture = env.render(state)
    assert picture.dtype == np.uint8 and picture.shape == (320, 320, 3)
    apart = state.replace(position=state.position * 0 + jnp.linspace(-0.9, 0.9, env.num_bodies)[:, None])
    shown = {tuple(colour) for colour in env.render(apart).reshape(-1, 3)}
    solid = [disc.colour for disc in env.body_look() if disc.alpha == 1]
    assert all(tuple(colour) in shown for colour in solid)
    far = state.replace(position=state.position + 5)
    assert not np.array_equal(env.render(far), picture)


# --- scripted policies ---------------------------------------------------------------------------------------

SCORES = {"spread": (-26, 10), "speaker_listener": (-30, 15), "tag": (4.5, 10)}
"""World -> (mean return of agent 0 under uniform play, least gain of the scripted policy)."""


@pytest.mark.parametrize("name", SCORES)
def test_scripted_policies_play_well(name):
    env = WORLDS[name]()
    (policy,) = env.scripted_policies().values()

    def play(key):
        state, timestep = env.reset(key)

        def body(carry, key):
            state, timestep = env.step(carry[0], policy(carry[0], carry[1], key))
            return (state, timestep.observation), timestep.reward[0]

        return jax.lax.scan(body, (state, timestep.observation), jax.random.split(key, env.last_step))[1].sum()

    found = float(jnp.mean(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 256))))
    usual, gain = SCORES[name]
    assert found > usual + gain


# --- batches -------------------------------------------------------------------------------------------------


def test_a_batch_restarts_at_the_horizon():
    env = Tag(horizon=3, prey="random")
    vector = VectorEnvironment(env, 5)
    state, timestep = vector.reset(jax.random.key(0))
    step, idle = jax.jit(vector.step), jnp.zeros((5, 3), jnp.int32)
    for count in range(1, 7):
        before = state
        state, timestep = step(state, idle)
        assert bool(timestep.last().all()) == (count % 3 == 0)
        assert (np.asarray(timestep.discount) == 1).all()
        alone, after = env.step(jax.tree.map(lambda leaf: leaf[2], before.inner), idle[0])
        np.testing.assert_allclose(
            timestep.extras["final_observation"].agents_view[2], after.observation.agents_view, atol=1e-5
        )
        if count % 3:
            np.testing.assert_allclose(state.inner.position[2], alone.position, atol=1e-6)
        else:
            assert not np.asarray(state.inner.velocity).any() and not np.asarray(state.inner.step_count).any()
            np.testing.assert_array_equal(timestep.observation.step_count, 0)
