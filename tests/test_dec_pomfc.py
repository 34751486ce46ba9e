"""dec_pomfc: its loss and gradient against an oracle, advantages, the weight of the divergence, refusals."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_swarm import LinearSwarm

from marl_bench import make, make_learner, specs

TINY = {"num_envs": 4, "num_steps": 8, "minibatches": 2, "epochs": 2, "hidden_sizes": (), "time": "scalar"}
PLAIN = {
    **TINY,
    "advantages": "none",
    "normalize_values": False,
    "value_clip": 0.2,
    "entropy_coefficient": 0.01,
    "kl_coefficient": 0.7,
}
SWARM: Any = LinearSwarm(agents=6, horizon=4, start_spread=0.5, span=2.0, largest=2.0)


@dataclasses.dataclass
class Run:
    """A learner with random parameters, the planner's world, a roll-out and the samples of it."""

    learner: object
    state: object
    mdp: object
    networks: dict
    steps: object
    batch: object

    def gradient(self, learner, networks, batch):
        return gradient_of(learner, self.mdp, networks, batch)


@jax.jit
def prepare(key, learner, env):
    """A state with random networks, a roll-out of it, and its samples."""
    state = learner.init(key, env)
    leaves, structure = jax.tree.flatten({name: state.params[name] for name in ("actor", "critic")})
    keys = jax.random.split(key, len(leaves))
    moved = [leaf + 0.2 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    state = state.replace(params={**state.params, **jax.tree.unflatten(structure, moved)})
    mdp = learner.mdp(state.params, env)
    _, steps, _ = learner.collect(state, mdp, key)
    _, *parts = learner.advantages_of(state, mdp, steps)
    return state, steps, learner.rows(state, steps, *parts)


gradient_of = jax.jit(
    lambda learner, mdp, networks, batch: jax.value_and_grad(learner.loss, has_aux=True)(networks, mdp, batch)
)


def prepared(terminates=0.0, **fields):
    learner, env = make_learner("dec_pomfc", **{**PLAIN, **fields}), SWARM.replace(terminates=terminates)
    learner.validate(env)
    state, steps, batch = prepare(jax.random.key(0), learner, env)
    networks = {name: state.params[name] for name in ("actor", "critic")}
    return Run(learner, state, learner.mdp(state.params, env), networks, steps, batch)


def test_a_planner_samples_once_a_step():
    """One sample for each step of a swarm, whatever the number of agents; where it was drawn, nothing has moved."""
    run = prepared()
    assert run.batch.view.shape == (1, 32, 1, 6) and run.batch.action.shape == (1, 32, 1, 10)
    (_, metrics), _ = run.gradient(run.learner, run.networks, run.batch)
    assert abs(metrics["kl"]) < 1e-6 and metrics["clipped"] == 0
    log_prob, _, _ = run.learner.predictions(run.networks, run.mdp, run.batch)
    np.testing.assert_allclose(np.exp(log_prob - run.batch.log_prob), 1, atol=1e-5)


def oracle(run, batch, kl_weight):
    """Loss and its gradient in float64, for linear networks."""
    names = ("view", "action", "log_prob", "advantage", "value", "target")
    view, action, old_log_prob, advantage, old_value, target = (
        np.asarray(getattr(batch, name), np.float64)[0, :, 0] for name in names
    )
    actor, critic = (
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[0], run.networks[name]) for name in ("actor", "critic")
    )
    std = np.exp(actor["log_std"])
    scaled = (action - view @ actor["output"]["w"] - actor["output"]["b"]) / std
    log_prob = -(0.5 * scaled**2 + actor["log_std"] + 0.5 * np.log(2 * np.pi)).sum(1)
    ratio = np.exp(log_prob - old_log_prob)
    clipped = np.clip(ratio, 0.8, 1.2)
    value = (view @ critic["output"]["w"] + critic["output"]["b"])[:, 0]
    near = old_value + np.clip(value - old_value, -0.2, 0.2)
    errors = np.stack([(value - target) ** 2, (near - target) ** 2])
    entropy = (actor["log_std"] + 0.5 * np.log(2 * np.pi * np.e)).sum()
    loss = (
        -np.minimum(ratio * advantage, clipped * advantage).mean()
        + 0.5 * 0.5 * errors.max(0).mean()
        - 0.01 * entropy
        + kl_weight * (ratio - 1 - np.log(ratio)).mean()
    )
    goes_on = (clipped == ratio) | (ratio * advantage < clipped * advantage)
    by_log_prob = (-advantage * ratio * goes_on + kl_weight * (ratio - 1)) / len(ratio)
    by_value = 0.5 * (value - target) * ((near == value) | (errors[0] > errors[1])) / len(ratio)
    gradient = {
        "actor": {
            "w": view.T @ (by_log_prob[:, None] * scaled / std),
            "b": by_log_prob @ (scaled / std),
            "log_std": by_log_prob @ (scaled**2 - 1) - 0.01,
        },
        "critic": {"w": view.T @ by_value[:, None], "b": by_value.sum(keepdims=True)},
    }
    cases = {
        "clipped": ~goes_on,
        "kept": goes_on & (clipped != ratio),
        "value clipped": (by_value == 0),
        "inside": clipped == ratio,
    }
    assert all(case.any() for case in cases.values()), cases
    return loss, gradient


@pytest.mark.parametrize("kl_weight", [0.0, 0.7, 30.0])
def test_loss_and_gradient_equal_their_formula(kl_weight):
    """With the divergence in it, on samples whose probabilities, values and advantages have moved."""
    run = prepared()
    rng = np.random.default_rng(0)
    moved = {
        name: getattr(run.batch, name) + rng.normal(scale=0.4, size=run.batch.value.shape).astype(np.float32)
        for name in ("log_prob", "value", "target", "advantage")
    }
    batch = run.batch.replace(**moved)
    learner = dataclasses.replace(run.learner, kl_coefficient=kl_weight)
    (loss, metrics), gradient = run.gradient(learner, run.networks, batch)
    expected, slopes = oracle(run, batch, kl_weight)
    assert loss == pytest.approx(expected, rel=1e-5) and metrics["kl"] > 0.01
    for name in ("actor", "critic"):
        found = {**gradient[name]["output"], **({"log_std": gradient[name]["log_std"]} if name == "actor" else {})}
        for part, leaf in found.items():
            np.testing.assert_allclose(leaf[0], slopes[name][part], rtol=1e-4, atol=2e-5, err_msg=f"{name} {part}")


def test_nothing_pulls_beyond_the_clipped_ratio():
    run = prepared()
    learner = dataclasses.replace(run.learner, kl_coefficient=0.0, entropy_coefficient=0.0)
    for move, sign, moves in (
        (-0.5, 1.0, False),
        (-0.5, -1.0, True),
        (0.5, -1.0, False),
        (0.5, 1.0, True),
        (-0.1, 1.0, True),
    ):
        batch = run.batch.replace(
            log_prob=run.batch.log_prob + move, advantage=jnp.full_like(run.batch.advantage, sign)
        )
        _, gradient = run.gradient(learner, run.networks, batch)
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient["actor"]))
        assert (largest > 1e-3) == moves and (moves or largest == 0), (move, sign)


@pytest.mark.parametrize("fields", [{}, {"hidden_sizes": (8,), "log_std": "state"}])
def test_every_parameter_learns(fields):
    run = prepared(**fields)
    _, gradient = run.gradient(run.learner, run.networks, run.batch)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        # Every column of a matrix and every entry of a vector: no parameter of the rule is forgotten.
        assert (np.abs(leaf).reshape(-1, leaf.shape[-1]).max(axis=0) > 0).all(), jax.tree_util.keystr(path)
    assert ("log_std" in gradient["actor"]) == (not fields)


@pytest.mark.parametrize("terminates", [0.0, 1.0])
def test_advantages_are_sums_that_go_on_behind_a_time_limit_only(terminates):
    run = prepared(terminates, discount=0.9, gae_lambda=0.8)
    critic = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[0], run.networks["critic"]["output"])
    read = [np.asarray(leaf, np.float64)[:, :, 0] for leaf in (run.steps.view, run.steps.next_view)]
    value, following = ((view @ critic["w"] + critic["b"])[..., 0] for view in read)
    reward, last = np.asarray(run.steps.reward, np.float64)[..., 0], np.asarray(run.steps.is_last)
    assert last.sum() == 8 and np.abs(following[last]).min() > 0.01
    delta = reward + 0.9 * following * (1 - last * terminates) - value
    expected = np.zeros_like(delta)
    for env in range(4):
        for start in range(8):
            for step in range(start, 8):
                expected[start, env] += (0.9 * 0.8) ** (step - start) * delta[step, env]
                if last[step, env]:
                    break
    np.testing.assert_allclose(np.asarray(run.batch.advantage).reshape(8, 4), expected, atol=1e-4)
    np.testing.assert_allclose(np.asarray(run.batch.target).reshape(8, 4), expected + value, atol=1e-4)


# --- updates -------------------------------------------------------------------------------------------------


@functools.cache
def updated():
    """`update` as a function of the learner's leaves and a state, and a first state."""
    learner = make_learner("dec_pomfc", **TINY, kl_coefficient=0.4)
    return (
        learner,
        jax.jit(learner.init)(jax.random.key(0), SWARM),
        jax.jit(lambda learner, state: learner.update(state, SWARM)),
    )


def test_weight_of_the_divergence_follows_it():
    learner, state, update = updated()
    assert state.kl_weight == np.float32(0.4)
    _, metrics = update(learner, state)
    assert metrics["kl_weight"] == np.float32(0.4) and metrics["kl"] > 0
    for share, factor in ((0.3, 1.5), (0.45, 1.5), (0.6, 1.0), (1.0, 1.0), (1.8, 1.0), (2.2, 0.5), (100.0, 0.5)):
        target = float(metrics["kl"]) * share
        following, _ = update(dataclasses.replace(learner, kl_target=target), state)
        assert following.kl_weight == pytest.approx(0.4 * factor), share


def test_the_adapted_weight_is_the_one_in_the_loss():
    learner, state, update = updated()
    (light, free), (heavy, held) = (update(learner, state.replace(kl_weight=jnp.float32(w))) for w in (0.0, 1e4))
    assert held["kl"] < 0.5 * free["kl"]
    assert any((a != b).any() for a, b in zip(*(jax.tree.leaves(s.params) for s in (light, heavy)), strict=True))
    other, _ = update(dataclasses.replace(learner, kl_coefficient=7.0), state)  # only the first weight
    same, _ = update(learner, state)
    jax.tree.map(np.testing.assert_array_equal, other.params, same.params)


def test_plan_is_what_the_swarms_were_like():
    """Means over copies and episodes of the features at each step, of the roll-out that the update learned from."""
    learner, state, update = updated()
    following, _ = update(learner, state)

    @jax.jit
    def views(state):
        key = jax.random.split(jax.random.fold_in(state.key, state.updates))[0]
        return learner.collect(state, learner.mdp(state.params, SWARM), key)[1].view

    expected = np.asarray(views(state))[:, :, 0].mean(1).reshape(2, 4, -1).mean(0)
    np.testing.assert_allclose(following.params["plan"], expected, atol=1e-6)
    np.testing.assert_allclose(following.params["plan"][:, -1], [0, 0.25, 0.5, 0.75], atol=1e-6)  # the time
    assert np.ptp(following.params["plan"][:, :-1], axis=0).max() > 0.01


def test_seeds_decide_everything():
    learner, _, update = updated()
    init = jax.jit(learner.init)
    first, again, other = (update(learner, init(jax.random.key(seed), SWARM)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, (first[0].params, first[1]), (again[0].params, again[1]))
    assert any((a != b).any() for a, b in zip(*(jax.tree.leaves(run[0].params) for run in (first, other)), strict=True))
    assert first[1]["reward"] != other[1]["reward"]


def test_compiled_steps_are_those_of_the_plain_rules():
    """Of the planner's world, operation by operation and compiled."""
    learner, state, _ = updated()
    mdp = learner.mdp(state.params, SWARM)
    start, first = mdp.reset(jax.random.key(3))
    xi = jax.random.normal(jax.random.key(4), (1, mdp.rule.size))
    plain, compiled = mdp.step(start, xi), jax.jit(mdp.step)(start, xi)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
        *((s.inner.x, t.observation, t.reward, t.extras) for s, t in (plain, compiled)),
    )
    assert first.observation.agents_view.shape == (1, 6) and plain[1].reward.shape == (1,)
    assert not np.array_equal(first.observation.agents_view, plain[1].observation.agents_view)


@pytest.mark.parametrize("layout", ["grid", "polar", "samples"])
def test_centres_of_rules(layout):
    env = make("vicsek", agents=8, horizon=4)
    learner = make_learner("dec_pomfc", num_envs=1, num_steps=4, minibatches=1, rule_layout=layout, rule_centres=4)
    params = jax.eval_shape(learner.init, jax.random.key(0), env).params
    size = {"grid": 16, "polar": 17, "samples": 4}[layout]
    assert params["rule"]["centres"].shape == (size, 2) and params["actor"]["log_std"].shape == (1, 2 * size)
    centres = np.asarray(jax.jit(lambda key: learner._centres(env, key))(jax.random.key(0)))
    assert len(np.unique(centres, axis=0)) == size and np.abs(centres).max() <= 1
    rule = learner.decision_rule({"centres": jnp.asarray(centres), "low": -jnp.ones(1), "high": jnp.ones(1)})
    gaps = np.linalg.norm(centres[:, None] - centres, axis=-1) + 9 * np.eye(size)
    spacing = {"grid": 0.5, "polar": 0.5, "samples": gaps.min(1).mean()}[layout]
    assert rule.bandwidth == pytest.approx(0.5 * spacing, rel=1e-5)


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"features": "kde"}, ValueError, "features='kde': must be one of rbf, hist, none"),
        ({"time": "onehot"}, ValueError, "did you mean 'one_hot'"),
        ({"rule": "gp"}, ValueError, "rule='gp': must be one of rbf, hist"),
        ({"rule_layout": "ring"}, ValueError, "rule_layout='ring': must be one of grid, polar, samples"),
        ({"mix": "laws"}, ValueError, "mix='laws': must be one of params, components"),
        ({"rule_centres": 0}, ValueError, "rule_centres=0: must be >= 1"),
        ({"canonical": 1}, TypeError, "canonical=1: must be True or False"),
        ({"feature_centres": (4, 0)}, TypeError, r"feature_centres=\(4, 0\): must be a tuple of positive integers"),
        ({"feature_centres": [4]}, TypeError, r"feature_centres=\[4\]: must be a tuple of positive integers"),
        ({"feature_bandwidth": 0.0}, ValueError, "feature_bandwidth=0.0: must be > 0"),
        ({"rule_bandwidth": -1.0}, ValueError, "rule_bandwidth=-1.0: must be > 0"),
        ({"kl_target": 0.0}, ValueError, "kl_target=0.0: must be > 0"),
        ({"kl_coefficient": -0.1}, ValueError, "kl_coefficient=-0.1: must be >= 0"),
        ({"min_std": -0.1}, ValueError, "min_std=-0.1: must be >= 0"),
        ({"max_std": float("nan")}, ValueError, "max_std=nan: must be >= 0"),
        ({"log_std": "fixed"}, ValueError, "log_std='fixed': must be one of free, state"),
        (
            {"sharing": "independent"},
            ValueError,
            "sharing='independent': dec_pomfc has one memoryless rule for all; use 'shared'",
        ),
        ({"groups": (0, 0)}, ValueError, r"groups=\(0, 0\): dec_pomfc has one memoryless rule for all; use None"),
        ({"agent_id": True}, ValueError, "agent_id=True: dec_pomfc has one memoryless rule for all; use False"),
        ({"recurrent_size": 8}, ValueError, "recurrent_size=8: dec_pomfc has one memoryless rule for all; use 0"),
        ({"channels": (4,)}, ValueError, r"channels=\(4,\): dec_pomfc has one memoryless rule for all; use \(\)"),
        ({"minibatches": 7}, ValueError, r"minibatches=7: must divide num_envs \* num_steps = 6400"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        make_learner("dec_pomfc", **fields)


@pytest.mark.parametrize(
    ("env", "env_fields", "fields", "message"),
    [
        ("spread", {}, {}, "Spread has no mean field .*: use a swarm, or ippo"),
        ("vicsek", {"horizon": 30}, {}, "num_steps=100: .* Vicsek needs num_steps to be a multiple of its horizon, 30"),
        ("agg3d", {}, {"rule_layout": "polar"}, r"rule_layout='polar': does not fit the views \(3,\) of Aggregation"),
        ("vicsek", {"sensor": "sectors"}, {"rule_layout": "polar"}, r"does not fit the views \(9,\) of Vicsek"),
        ("vicsek", {"sensor": "sectors"}, {}, r"rule_centres=5: 1953125 centres .* use rule_layout=samples"),
        ("vicsek", {}, {"feature_centres": (4, 4)}, r"centres \(4, 4\): Vicsek has 3 axes"),
        ("aggregation", {}, {"canonical": True}, "canonical=True: needs one axis with a direction"),
    ],
)
def test_worlds_that_do_not_fit_are_refused(env, env_fields, fields, message):
    with pytest.raises(ValueError, match=message):
        make_learner("dec_pomfc", **fields).validate(make(env, **env_fields))
    make_learner("dec_pomfc").validate(make("aggregation", horizon=50))


def test_numbered_actions_and_open_ends_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Numbered(LinearSwarm):
        action_spec = property(lambda self: specs.MultiDiscreteArray([3] * self.agents, np.int32, "action"))

    @dataclasses.dataclass(frozen=True)
    class Open(LinearSwarm):
        fixed_horizon = property(lambda self: None)

    learner = make_learner("dec_pomfc")
    with pytest.raises(ValueError, match="actions that are vectors, those of Numbered are numbered; use learner=ippo"):
        learner.validate(Numbered())
    with pytest.raises(ValueError, match="dec_pomfc plans whole episodes; Open needs a fixed horizon"):
        learner.validate(Open())
