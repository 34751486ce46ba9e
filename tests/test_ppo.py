"""ippo and mappo: losses against an oracle, the training path against the acting path, and games with known answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_worlds import Chain, MemoryGame

from marl_bench import evaluation, make, make_learner
from marl_bench.algorithms import slots
from marl_bench.environment import Observation

SMALL = {"num_envs": 4, "num_steps": 10, "minibatches": 2, "epochs": 2, "hidden_sizes": (8,), "evaluation_episodes": 8}
SETTINGS = {
    "ippo": ("ippo", {}),
    "independent": ("ippo", {"sharing": "independent", "advantages": "agent", "value_clip": None}),
    "mappo-gru": ("mappo", {"recurrent_size": 4, "groups": (0, 1, 0), "advantages": "none", "agent_id": True}),
}


@dataclasses.dataclass
class Run:
    """A learner in `spread` with random parameters, and the data of an update."""

    env: object
    learner: object
    state: object
    networks: dict
    batch: object
    steps: object
    gradient: object


@pytest.fixture(scope="module", params=SETTINGS)
def run(request):
    name, fields = SETTINGS[request.param]
    env, learner = make("spread", horizon=4), make_learner(name, **SMALL, **fields)
    learner.validate(env)

    @jax.jit
    def prepare(key):
        state = learner.init(key, env)
        leaves, structure = jax.tree.flatten({name: state.params[name] for name in ("actor", "critic")})
        keys = jax.random.split(key, len(leaves))
        moved = [leaf + 0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
        state = dataclasses.replace(state, params={**state.params, **jax.tree.unflatten(structure, moved)})
        world, steps, _ = learner.collect(state, env, jax.random.key(4))
        state = dataclasses.replace(state, world=world)
        _, steps, _ = learner.collect(state, env, jax.random.key(5))
        _, value, advantage, target = learner.advantages_of(state, env, steps)
        return state, learner.rows(state, steps, value, advantage, target), steps

    state, batch, steps = prepare(jax.random.key(0))
    networks = {name: state.params[name] for name in ("actor", "critic")}
    gradient = jax.jit(jax.grad(lambda n, b: learner.loss(n, env, b)[0]))
    return Run(env, learner, state, networks, batch, steps, gradient)


def test_the_training_path_repeats_the_acting_path(run):
    """The probability ratio is 1 at every step, those after an episode's start and before its end included."""
    assert np.asarray(run.steps.is_last).any() and np.asarray(run.steps.is_first).any()
    log_prob, entropy, value = jax.jit(lambda n, b: run.learner.predictions(n, run.env, b))(run.networks, run.batch)
    np.testing.assert_allclose(np.exp(log_prob - run.batch.log_prob), 1, atol=1e-5)
    assert (np.asarray(entropy) > 0).all()
    if not run.learner.normalize_values:
        np.testing.assert_allclose(value, run.batch.value, atol=1e-5)


def test_loss_equals_its_formula(run):
    """Against float64 NumPy, with a batch whose probabilities, values and advantages have moved."""
    rng, learner = np.random.default_rng(0), run.learner
    moved = {
        name: getattr(run.batch, name) + rng.normal(scale=0.3, size=run.batch.value.shape).astype(np.float32)
        for name in ("log_prob", "value", "target", "advantage")
    }
    batch = run.batch.replace(**moved)
    loss, metrics = jax.jit(lambda n, b: learner.loss(n, run.env, b))(run.networks, batch)
    predicted = jax.jit(lambda n, b: learner.predictions(n, run.env, b))(run.networks, batch)
    log_prob, entropy, value = (np.asarray(x, np.float64) for x in predicted)
    old = {name: np.asarray(leaf, np.float64) for name, leaf in moved.items()}
    advantage = old["advantage"]
    if learner.advantages != "none":
        axes = (0, 1) if learner.advantages == "agent" else (0, 1, 2)
        advantage = (advantage - advantage.mean(axes, keepdims=True)) / (advantage.std(axes, keepdims=True) + 1e-8)
    ratio = np.exp(log_prob - old["log_prob"])
    policy = -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    error = (value - old["target"]) ** 2
    if learner.value_clip is not None:
        near = old["value"] + np.clip(value - old["value"], -0.2, 0.2)
        error = np.maximum(error, (near - old["target"]) ** 2)
    by_agent = (policy + 0.5 * 0.5 * error - 0.01 * entropy).mean((0, 1))
    agents = np.asarray(learner.slots(run.env))
    expected = sum(by_agent[agents == slot].mean() for slot in set(agents.tolist()))
    assert loss == pytest.approx(expected, abs=1e-5)
    assert metrics["clipped"] == pytest.approx(np.mean(np.abs(ratio - 1) > 0.2), abs=1e-6)
    assert 0 < metrics["clipped"] < 1 and metrics["kl"] > 0


def test_every_parameter_learns(run):
    gradient = run.gradient(run.networks, run.batch)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert (np.abs(leaf).reshape(leaf.shape[0], -1).max(axis=1) > 0).all(), jax.tree_util.keystr(path)


def test_norms_by_agent_are_those_of_each_agents_share(run):
    """Without the samples of the others, an agent's share is all that is left of the gradient of its slot."""
    norms = jax.jit(lambda n, b: run.learner.norms_by_agent(n, run.env, b))(run.networks, run.batch)
    agents = run.learner.slots(run.env)
    assert sorted(norms) == [f"gradient_norm_agent_{agent}" for agent in range(3)]
    total = run.gradient(run.networks, run.batch)
    by_slot = np.sqrt(
        sum(np.square(leaf).reshape(len(leaf), -1).sum(1) for leaf in map(np.asarray, jax.tree.leaves(total)))
    )
    for slot in set(agents):
        mine = [float(norms[f"gradient_norm_agent_{agent}"]) for agent in range(3) if agents[agent] == slot]
        if len(mine) == 1:
            assert mine[0] == pytest.approx(by_slot[slot], rel=1e-4)
        else:  # a sum of vectors
            assert by_slot[slot] < sum(mine) * (1 + 1e-5)


def test_a_slot_learns_as_if_alone(run):
    """What the last agent did changes the gradient of its own slot and of no other."""
    agents = run.learner.slots(run.env)
    silenced = run.batch.replace(advantage=run.batch.advantage.at[:, :, 2].set(0))
    gradient, other = (run.gradient(run.networks, batch)["actor"] for batch in (run.batch, silenced))
    for mine, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        assert np.abs(mine[agents[2]] - theirs[agents[2]]).max() > 0
        for slot in set(agents) - {agents[2]}:
            np.testing.assert_allclose(mine[slot], theirs[slot], atol=1e-7)


def test_an_agent_acts_on_its_own_view_only(run):
    learner, params = run.learner, run.state.params
    view = run.steps.view[0, 0]
    memory = jax.random.normal(jax.random.key(2), (3, learner.recurrent_size))
    act = jax.jit(lambda view, memory: learner.act(params, memory, Observation(view, mask, jnp.int32(0)), key))
    mask, key = jnp.ones((3, 5), bool), jax.random.key(3)
    distribution = jax.jit(lambda v, m: learner.distribution(params, m, v, mask, jnp.bool_(False))[1].logits)
    before = distribution(view, memory)
    other = distribution(view.at[1:].add(1.0), memory.at[1:].add(1.0))
    np.testing.assert_array_equal(before[0], other[0])
    assert np.abs(before[1:] - other[1:]).max() > 0
    actions, following = act(view, memory)
    assert actions.shape == (3,) and actions.dtype == jnp.int32 and following.shape == memory.shape


def test_seeds_decide_everything():
    env, learner = make("spread", horizon=4), make_learner("ippo", **SMALL)

    @jax.jit
    def trained(key):
        state, metrics = learner.update(learner.init(key, env), env)
        return jax.tree.leaves(state.params), metrics["reward"]

    (first, reward), (again, _), (other, changed) = (trained(jax.random.key(seed)) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True)) and reward != changed


def trained(name, env, updates, **fields):
    """A learner's last state and its metrics by update, and mean returns of 256 greedy episodes."""
    learner = make_learner(name, **fields)
    learner.validate(env)

    @jax.jit
    def whole(key):
        state = learner.init(key, env)
        state, metrics = jax.lax.scan(lambda s, _: learner.update(s, env), state, None, length=updates)
        episodes = evaluation.play(env, learner, state.params, jax.random.key(9), 256, greedy=True)
        return state, metrics, evaluation.summary(episodes)

    return learner, *whole(jax.random.key(1))


FAST = {"num_envs": 64, "num_steps": 6, "hidden_sizes": (16,), "learning_rate": 1e-2, "gae_lambda": 1.0}


def test_a_memory_is_learned():
    """Without one nobody can have more than 0.5."""
    _, _, _, with_memory = trained("ippo", MemoryGame(), 60, **FAST, recurrent_size=8)
    assert with_memory["return_mean_per_agent"] > 0.98


def test_values_are_bootstrapped_through_truncation():
    fields = {**FAST, "gae_lambda": 0.5, "discount": 0.8, "value_clip": None, "anneal_steps": 64 * 6 * 300}
    learner, state, _, _ = trained("ippo", Chain(), 300, **fields)
    network = learner.critic(Chain())
    critic = jax.tree.map(lambda leaf: leaf[0], state.params["critic"])
    found = [network.apply(critic, jnp.zeros(0), view, jnp.bool_(False))[1][0] for view in np.eye(3)]
    np.testing.assert_allclose(found, Chain.values(0.8), atol=0.05)


def test_a_continuous_optimum_is_found():
    """In a dilemma of contributions without a return above 1 the best is to give nothing."""
    env = make("continuous_dilemma", horizon=4)
    fields = {**FAST, "learning_rate": 3e-3, "entropy_coefficient": 0.0}
    _, _, metrics, _ = trained("ippo", env, 60, **fields)
    assert metrics["contribution"][-1] < 0.5 * metrics["contribution"][0]


@pytest.mark.slow
def test_normalised_values_reach_the_scale_of_returns():
    env = make("spread", horizon=4)
    learner, state, _, _ = trained("mappo", env, 20, **{**FAST, "num_steps": 8, "num_envs": 32})
    _, steps, _ = learner.collect(state, env, jax.random.key(0))
    _, value, _, target = learner.advantages_of(state, env, steps)
    assert np.abs(np.mean(value) - np.mean(target)) < 0.3 * np.std(target) and np.std(target) > 0.5


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"minibatches": 3}, ValueError, "minibatches=3: must divide num_envs \\* num_steps = 2048"),
        ({"minibatches": 32, "recurrent_size": 8}, ValueError, "must divide num_envs = 16"),
        ({"advantages": "global"}, ValueError, "must be one of minibatch, agent, none"),
        ({"gae_lambda": 1.5}, ValueError, "gae_lambda=1.5: must be >= 0 and <= 1"),
        ({"clip": 0.0}, ValueError, "clip=0.0: must be > 0"),
        ({"hidden_sizes": [64]}, TypeError, "must be a tuple of positive integers"),
        ({"groups": "ab"}, TypeError, "must be a tuple of slots"),
        ({"normalize_values": 1}, TypeError, "must be True or False"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        make_learner("ippo", **fields)


def test_worlds_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"NetworkDilemma asks its learner for temperature, progress.*use learner=dqn"):
        make_learner("ippo").validate(make("network_dilemma", observe="both"))
    with pytest.raises(ValueError, match=r"channels=\(4,\): Spread shows views of shape \(18,\)"):
        make_learner("ippo", channels=(4,)).validate(make("spread"))
    with pytest.raises(ValueError, match="mappo needs a global state, Chain offers none; use learner=ippo"):
        make_learner("mappo").validate(Chain())
    with pytest.raises(
        ValueError, match="steps=1000: must be a multiple of num_envs \\* num_steps = 2048; use steps=2048"
    ):
        make_learner("ippo").num_updates(1000)
    assert slots.num_slots(make_learner("ippo", sharing="independent").slots(make("spread"))) == 3
