"""Exact facts of conservative terms for many agents (Shao et al. 2023), on random values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl_bench.algorithms.mixers import MonotonicMixer, Sum
from marl_bench.algorithms.offline import conservative
from marl_bench.algorithms.offline.cfcql import CFCQL
from marl_bench.algorithms.offline.macql import MACQL

AGENTS, ACTIONS, STATES = 3, 4, 5
EVERY = {"joint_actions": 0, "macql_mask": "-inf"}


def example(seed: int = 0, agents: int = AGENTS):
    """Values [1, 5, N, A], recorded actions' values [1, 5, N], legal actions and a behaviour's log-probabilities."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(1, STATES, agents, ACTIONS)).astype(np.float32)
    mask = rng.random(q.shape) < 0.7
    mask[..., 0] = True  # the recorded action
    behaviour = np.where(mask, rng.normal(size=q.shape), -1e9)
    behaviour = jax.nn.log_softmax(jnp.asarray(behaviour, jnp.float32))
    return jnp.asarray(q), jnp.asarray(mask), behaviour


def qmix(agents: int = AGENTS, seed: int = 0):
    mixer = MonotonicMixer(6, agents, 8, (5,))
    keys = jax.random.split(jax.random.key(seed))
    params = jax.tree.map(lambda leaf: 3.0 * leaf, mixer.init(keys[0]))
    return mixer.weights(params, jax.random.normal(keys[1], (1, STATES, 6)))


def term(learner, mixture, q, mask, behaviour=None, key=None):
    """[1, 5] conservative term R where action 0 was recorded."""
    soft, _ = learner.penalty(mixture, q, q[..., 0], mask, behaviour, key)
    return soft - mixture.joint(q[..., 0])


def test_counterfactual_values_equal_whole_mixers():
    mixture, (q, _, _) = qmix(), example()
    found = mixture.one_changed(q, q[..., 0])
    for agent in range(AGENTS):
        for action in range(ACTIONS):
            values = q[..., 0].at[..., agent].set(q[..., agent, action])
            np.testing.assert_allclose(found[..., agent, action], mixture.joint(values), rtol=1e-5, atol=1e-5)
    some = jax.random.normal(jax.random.key(1), (1, STATES, 7, AGENTS))
    one_by_one = [mixture.joint(some[:, :, m]) for m in range(7)]
    np.testing.assert_allclose(mixture.some(some), jnp.stack(one_by_one, -1), rtol=1e-5, atol=1e-5)


def test_sum_mixer_makes_the_joint_term_n_times_the_counterfactual_one():
    q, mask, _ = example()
    counterfactual = lambda q: jnp.mean(term(CFCQL(temperature=0.0, behaviour=False), Sum(), q, mask))  # noqa: E731
    joint = lambda q: jnp.mean(term(MACQL(**EVERY), Sum(), q, mask))  # noqa: E731
    (one, one_gradient), (all_, all_gradient) = (jax.value_and_grad(f)(q) for f in (counterfactual, joint))
    np.testing.assert_allclose(all_, AGENTS * one, rtol=1e-5)
    np.testing.assert_allclose(all_gradient, AGENTS * one_gradient, atol=1e-6)


def test_one_agent_makes_both_terms_equal():
    q, mask, behaviour = example(agents=1)
    both = [
        jax.value_and_grad(lambda q, learner=learner: jnp.mean(term(learner, qmix(1), q, mask, behaviour)))(q)
        for learner in (CFCQL(temperature=2.0), MACQL(**EVERY))
    ]
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_terms_that_include_the_recorded_action_are_not_negative():
    q, mask, behaviour = example(3)
    assert (term(CFCQL(temperature=1.0), qmix(), q, mask, behaviour) >= 0).all()
    assert (term(MACQL(**EVERY), qmix(), q, mask) >= 0).all()
    key = jax.random.key(0)
    few = MACQL(joint_actions=2, macql_mask="-inf")
    assert (term(few, qmix(), q, mask, key=key) < 0).any()
    assert (term(few.replace(data_action=True), qmix(), q, mask, key=key) >= 0).all()


def test_illegal_joint_actions_count_as_zero_or_not_at_all():
    q, mask, _ = example(4)
    every = conservative.every_joint_action(AGENTS, ACTIONS)
    found = {name: term(MACQL(joint_actions=0, macql_mask=name), qmix(), q, mask) for name in ("zero", "-inf")}
    for state in range(STATES):
        total, legal = [], []
        for joint in every:
            pick = q[0, state, np.arange(AGENTS), joint]
            total.append(float(qmix().joint(jnp.broadcast_to(pick, (1, STATES, AGENTS)))[0, state]))
            legal.append(bool(mask[0, state, np.arange(AGENTS), joint].all()))
        total, legal = np.array(total), np.array(legal)
        here = float(qmix().joint(q[..., 0])[0, state])
        zero, left_out = np.where(legal, total, 0.0), total[legal]
        np.testing.assert_allclose(found["zero"][0, state], np.log(np.exp(zero).sum()) - here, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["-inf"][0, state], np.log(np.exp(left_out).sum()) - here, rtol=1e-4, atol=1e-4)


def test_illegal_actions_get_no_gradient_and_no_part_in_the_weights():
    q, mask, behaviour = example(5)
    learner = CFCQL(temperature=1.0)
    gradient = jax.grad(lambda q: jnp.sum(term(learner, qmix(), q, mask, behaviour)))(q)
    assert (np.asarray(gradient)[~np.asarray(mask)] == 0).all()
    assert (np.asarray(gradient)[np.asarray(mask)] != 0).all()
    other = jnp.where(mask, q, 50.0)
    deviations = [conservative.deviation(values, mask, behaviour) for values in (q, other)]
    np.testing.assert_array_equal(*deviations)


def test_gradient_weights_of_a_state_sum_to_zero():
    q, mask, behaviour = example(6)
    term_of = lambda q: jnp.sum(term(CFCQL(temperature=1.5), Sum(), q, mask, behaviour))  # noqa: E731
    gradient = jax.grad(term_of)(q)
    np.testing.assert_allclose(jnp.sum(gradient, axis=(-2, -1)), 0.0, atol=1e-6)


def test_weights_carry_no_gradient():
    q, mask, behaviour = example(7)
    learner, mixture = CFCQL(temperature=3.0), qmix()
    values = mixture.one_changed(q, q[..., 0])
    weights = conservative.agent_weights(conservative.deviation(values, mask, behaviour), 3.0, 1.0)

    def fixed(q: jax.Array) -> jax.Array:
        soft = conservative.log_sum_exp(mixture.one_changed(q, q[..., 0]), mask)
        return jnp.sum(jnp.sum(weights * soft, axis=-1) - mixture.joint(q[..., 0]))

    found = jax.grad(lambda q: jnp.sum(term(learner, mixture, q, mask, behaviour)))(q)
    np.testing.assert_allclose(found, jax.grad(fixed)(q), atol=1e-6)


def test_weights_by_temperature_and_sign():
    deviations = jnp.asarray([[0.3, 2.0, 1.0], [1.0, 0.5, 0.7]])
    np.testing.assert_allclose(conservative.agent_weights(deviations, 0.0, 1.0), 1 / 3, rtol=1e-6)
    most, least = [[0, 1, 0], [1, 0, 0]], [[1, 0, 0], [0, 1, 0]]
    for temperature in (100.0, jnp.inf):
        np.testing.assert_array_equal(conservative.agent_weights(deviations, temperature, 1.0), most)
        np.testing.assert_array_equal(conservative.agent_weights(deviations, temperature, -1.0), least)
    np.testing.assert_allclose(conservative.agent_weights(deviations * 100, 99.0, 1.0), most, atol=1e-6)
    np.testing.assert_allclose(jnp.sum(conservative.agent_weights(deviations, 1.3, -1.0), axis=-1), 1.0, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), agents=st.integers(1, 6), scale=st.floats(0.05, 4.0))
def test_joint_divergence_exceeds_any_mixture_of_single_ones(seed: int, agents: int, scale: float):
    rng = np.random.default_rng(seed)
    pi, beta = (np.exp(scale * rng.normal(size=(agents, ACTIONS))) for _ in range(2))
    pi, beta = (x / x.sum(1, keepdims=True) for x in (pi, beta))
    single = (pi**2 / beta).sum(1) - 1
    kl = (pi * np.log(pi / beta)).sum(1)
    weights = rng.dirichlet(np.ones(agents))
    joint = np.prod(1 + single) - 1
    mask = np.ones((agents, ACTIONS), bool)
    ratios = conservative.log_chi_square(*(jnp.asarray(np.log(x), jnp.float32) for x in (pi, beta)), jnp.asarray(mask))
    log_single, log_joint = conservative.log_divergences(ratios)
    np.testing.assert_allclose(np.exp(log_single), single.mean(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(log_joint, np.log(joint), rtol=1e-3, atol=1e-2)
    others = kl.sum() - kl[np.argmax(single)]
    assert float(log_joint) >= np.log(weights @ single) + others - 1e-2 - 1e-3 * abs(float(log_joint))


def test_divergences_beyond_the_range_of_float32():
    ratios = jnp.full(40, 10.0)
    log_single, log_joint = conservative.log_divergences(ratios)
    np.testing.assert_allclose(log_joint, 400.0, rtol=1e-6)
    np.testing.assert_allclose(log_single, np.log(np.expm1(10.0)), rtol=1e-6)
    means = conservative.log_mean(jnp.asarray([400.0, 398.0, 1e9]), jnp.asarray([True, True, False]))
    np.testing.assert_allclose(means, 400 + np.log((1 + np.exp(-2)) / 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("learner", "fields", "named"),
    [
        (CFCQL, {"temperature": -1.0}, "temperature"),
        (CFCQL, {"lambda_sign": 2.0}, "lambda_sign"),
        (CFCQL, {"behaviour": False, "temperature": 1.0}, "behaviour=False"),
        (CFCQL, {"mixer": "mean"}, "mixer"),
        (MACQL, {"macql_mask": "none"}, "macql_mask"),
        (MACQL, {"joint_actions": -1}, "joint_actions"),
        (MACQL, {"conservative_weight": float("nan")}, "conservative_weight"),
    ],
)
def test_bad_fields_are_named(learner, fields, named):
    with pytest.raises(ValueError, match=named):
        learner(**fields)
