"""Dilemmas of n agents: costs and refunds of public goods, stag hunt, snowdrift, minority, graded actions, punishment."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench import check_environment
from marl_bench.envs import continuous_dilemma as graded
from marl_bench.envs.closed_forms import collective
from marl_bench.envs.collective_dilemma import CollectiveDilemma
from marl_bench.envs.continuous_dilemma import ContinuousDilemma
from marl_bench.envs.public_goods import PublicGoods

KEY = jax.random.key(0)


def outcomes(env):
    """{(action, K): payoff} for every action and number of cooperators that can occur."""
    n = env.players
    cells = [
        (action, total) for total in range(n + 1) for action in (0, 1) if (total >= 1 if action == 0 else total < n)
    ]
    actions, totals = map(jnp.asarray, zip(*cells, strict=True))
    return dict(zip(cells, np.asarray(env.outcome(actions, totals)).tolist(), strict=True))


def pure_equilibria(env):
    """Numbers of cooperators at which no agent gains by changing alone."""
    pay, n = outcomes(env), env.players
    stable = []
    for total in range(n + 1):
        stays = total == 0 or pay[0, total] >= pay[1, total - 1] - 1e-6
        joins_not = total == n or pay[1, total] >= pay[0, total + 1] - 1e-6
        if stays and joins_not:
            stable.append(total)
    return stable


# --- public goods ----------------------------------------------------------------------------------


def test_threshold_game_has_its_two_equilibria():
    env = PublicGoods(players=5, multiplier=0.0, endowment=0.0, threshold=3.0, bonus=4.0, cost=1.5)
    pay = outcomes(env)
    assert pay[0, 5] == pytest.approx(2.5) and pay[1, 0] == 0
    assert pay[0, 2] == pytest.approx(-1.5) and pay[1, 3] == pytest.approx(4.0)
    assert pure_equilibria(env) == [0, 3]


def test_refund_gives_the_cost_back_below_the_threshold_only():
    env = PublicGoods(players=5, multiplier=0.0, endowment=1.0, threshold=3.0, bonus=4.0, cost=1.5, refund=1.0)
    pay = outcomes(env)
    assert pay[0, 2] == pytest.approx(1.0) and pay[0, 3] == pytest.approx(3.5)
    half = PublicGoods(players=5, multiplier=0.0, endowment=1.0, threshold=3.0, bonus=4.0, cost=1.5, refund=0.5)
    assert outcomes(half)[0, 2] == pytest.approx(0.25)


@pytest.mark.parametrize(("multiplier", "equilibria"), [(0.5, [0]), (1.6, [0]), (3.9, [0]), (4.5, [4])])
def test_contributing_pays_only_when_the_multiplier_exceeds_the_group(multiplier, equilibria):
    env = PublicGoods(players=4, multiplier=multiplier, cost=2.0)
    assert pure_equilibria(env) == equilibria
    pay = outcomes(env)
    assert pay[0, 4] == pytest.approx(1 - 2 + 2 * multiplier) and pay[1, 0] == pytest.approx(1.0)
    closed = collective.linear_schelling_curves(np.arange(4), 4, multiplier, cost=2.0)
    np.testing.assert_allclose(closed[0], [pay[0, k + 1] for k in range(4)], rtol=1e-5)
    np.testing.assert_allclose(closed[1], [pay[1, k] for k in range(4)], rtol=1e-5)


def test_volunteers_preset_is_the_volunteers_dilemma():
    env = marl_bench.make("volunteers_dilemma")
    assert pure_equilibria(env) == [1]
    pay = outcomes(env)
    assert pay[0, 1] == pay[0, env.players] == pytest.approx(env.bonus - env.cost) and pay[1, 0] == 0


# --- counts ------------------------------------------------------------------------------------------


def test_stag_hunt_needs_its_hunters():
    env = CollectiveDilemma(players=5, benefit=8.0, threshold=3.0)
    pay = outcomes(env)
    # All hunt: F - 1; nobody: 0; two hunters below the threshold lose their cost.
    assert pay[0, 5] == pytest.approx(7) and pay[1, 0] == 0 and pay[0, 2] == pytest.approx(-1)
    assert pay[1, 3] == pytest.approx(4.8)
    # F / n = 1.6 > 1: above the threshold everybody hunts. With F / n < 1 exactly M of them do.
    assert pure_equilibria(env) == [0, 5]
    assert pure_equilibria(CollectiveDilemma(players=5, benefit=4.0, threshold=3.0)) == [0, 3]


def test_snowdrift_shares_its_cost():
    env = CollectiveDilemma(rule="snowdrift", players=4, benefit=3.0, cost=2.0)
    pay = outcomes(env)
    assert pay[0, 4] == pytest.approx(2.5) and pay[0, 1] == pytest.approx(1.0) and pay[1, 0] == 0
    assert pay[1, 2] == pytest.approx(3.0)
    x = float(collective.snowdrift_equilibrium(4, 3.0, 2.0))
    law = [(x**k * (1 - x) ** (3 - k)) * [1, 3, 3, 1][k] for k in range(4)]
    own = [sum(weight * pay[action, k + (action == 0)] for k, weight in enumerate(law)) for action in (0, 1)]
    assert own[0] == pytest.approx(own[1], abs=1e-4)


@pytest.mark.parametrize("players", [4, 5])
def test_minority_pays_the_strictly_smaller_side(players):
    env = CollectiveDilemma(rule="minority", players=players, benefit=1.0)
    state, _ = env.reset(KEY)
    for joint in itertools.product((0, 1), repeat=players):
        sizes = [joint.count(0), joint.count(1)]
        expected = [float(sizes[action] < sizes[1 - action]) for action in joint]
        np.testing.assert_array_equal(env.step(state, jnp.array(joint))[1].reward, expected)
    split = env.scripted_policies()["split"](state, None, KEY)
    assert float(env.step(state, split)[1].reward.sum()) == (players - 1) // 2


def test_hundreds_of_agents():
    env = CollectiveDilemma(players=400, threshold=100.0)
    state, _ = env.reset(KEY)
    reward = env.step(state, jnp.arange(400) % 2)[1].reward
    np.testing.assert_allclose(reward[:2], [3.0, 4.0])


# --- graded actions ------------------------------------------------------------------------------------


def test_equal_agents_play_linear_public_goods():
    env = ContinuousDilemma(players=4, multiplier=1.6)
    discrete = PublicGoods(players=4, multiplier=1.6, horizon=10)
    state, _ = env.reset(KEY)
    for joint in itertools.product((0, 1), repeat=4):
        expected = discrete.payoffs(jnp.array(joint))
        reward = env.step(state, 1.0 - jnp.array(joint, jnp.float32)[:, None])[1].reward
        np.testing.assert_allclose(reward, expected, rtol=1e-6)


def test_unequal_agents_by_hand():
    env = ContinuousDilemma(players=3, endowments=[1.0, 2.0, 3.0], productivities=[1.0, 1.5, 2.0])
    state, timestep = env.reset(KEY)
    np.testing.assert_array_equal(timestep.observation.agents_view[1], [1, 2, 1.5, 0, 0, 0])
    # The pot is 1 * 0.5 * 1 + 1.5 * 1 * 2 + 2 * 0 = 3.5, a third each.
    state, timestep = env.step(state, jnp.array([[0.5], [1.0], [0.0]]))
    np.testing.assert_allclose(timestep.reward, 3.5 / 3 + np.array([0.5, 0, 3]), rtol=1e-6)
    np.testing.assert_allclose(timestep.observation.agents_view[1], [0, 2, 1.5, 1, 0, 0.5], rtol=1e-6)


@pytest.mark.parametrize("players", [2, 5])
def test_commons_earn_the_closed_form(players):
    env = ContinuousDilemma(game="commons", players=players, endowment=3.0)
    closed = collective.commons_uses(players, 3.0)
    state, _ = env.reset(KEY)
    policies = env.scripted_policies()
    for name, value in (("cooperate", closed.planner_payoff), ("defect", closed.nash_payoff)):
        reward = env.step(state, policies[name](state, None, KEY))[1].reward
        np.testing.assert_allclose(reward, float(value), rtol=1e-5)
    # At the equilibrium the slope of the own payoff is 0.
    nash = jnp.full(players, players / (players + 1))
    slope = jax.grad(lambda share: graded.commons(nash.at[0].set(share), jnp.full(players, 3.0))[0])(nash[0])
    assert float(slope) == pytest.approx(0, abs=1e-5)


def test_punishment_is_a_stage_of_its_own():
    env = ContinuousDilemma(players=3, punishment=True, punish_cost=1.0, punish_effect=3.0, horizon=2)
    punisher = env.scripted_policies()["punisher"]
    state, _ = env.reset(KEY)
    shares = jnp.zeros((3, 3)).at[:, 0].set(jnp.array([1.0, 1.0, 0.0]))
    state, first = env.step(state, shares)
    np.testing.assert_allclose(first.reward, 1.6 * 2 / 3 + np.array([0, 0, 1]), rtol=1e-6)
    assert (np.asarray(first.observation.agents_view[:, 0]) == 1).all()
    # Agents 0 and 1 give one point each to agent 2, who gives none: it loses 6.
    state, second = env.step(state, punisher(state, None, KEY))
    np.testing.assert_allclose(second.reward, [-1, -1, -6])
    assert float(second.extras["metrics"]["punishment"]) == pytest.approx(2 / 3)
    assert float(second.extras["metrics"]["contribution"]) == 0
    np.testing.assert_array_equal(state.shares, [1, 1, 0])
    state, _ = env.step(state, shares)
    _, last = env.step(state, jnp.zeros((3, 3)))
    assert last.last() and (np.asarray(last.discount) == 1).all() and env.fixed_horizon == 4


def test_points_reach_the_agent_they_are_meant_for():
    # Agent 1 gives 0.5 to agent 2 (slot 0) and 0.25 to agent 0 (slot 1).
    points = jnp.array([[0.0, 0.0], [0.5, 0.25], [0.0, 0.0]])
    np.testing.assert_allclose(graded.punish(points, 1.0, 4.0), [-1.0, -0.75, -2.0])


def test_one_program_runs_groups_of_different_inequality():
    cells = [ContinuousDilemma(players=2, endowments=list(e), productivities=[2.0, 2.0]) for e in ((1, 1), (1, 3))]
    stack = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *cells)
    rewards = jax.vmap(lambda env: env.step(env.reset(KEY)[0], jnp.ones((2, 1)))[1].reward)(stack)
    np.testing.assert_allclose(rewards, [[2, 2], [4, 4]])


# --- contract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [
        CollectiveDilemma(rule="snowdrift", horizon=6),
        PublicGoods(players=3, threshold=2.0, bonus=2.0, refund=0.5, horizon=6),
        ContinuousDilemma(players=3, punishment=True, endowments=[1.0, 2.0, 3.0], horizon=3),
        ContinuousDilemma(game="commons", horizon=1),
    ],
    ids=["snowdrift", "refund", "punishment", "one_round"],
)
def test_conforms(env):
    assert check_environment(env, num_steps=30) == []


def test_pictures():
    env = ContinuousDilemma(players=3)
    state, _ = env.reset(KEY)
    picture = env.render(env.step(state, jnp.array([[1.0], [0.5], [0.0]]))[0])
    assert picture.shape == (120, 120, 3) and picture.dtype == np.uint8
    assert [tuple(picture[30, 20 + 40 * i]) == tuple(env.render(state)[30, 20]) for i in range(3)] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("make", "fields", "error", "message"),
    [
        (CollectiveDilemma, {"rule": "stag"}, ValueError, "did you mean 'stag_hunt'"),
        (CollectiveDilemma, {"players": 1}, ValueError, "players=1"),
        (CollectiveDilemma, {"cost": -1.0}, ValueError, "cost=-1.0"),
        (PublicGoods, {"cost": -1.0}, ValueError, "cost=-1.0"),
        (PublicGoods, {"refund": 1.5}, ValueError, "refund=1.5"),
        (ContinuousDilemma, {"endowments": [1.0, 2.0]}, ValueError, "must be 4 finite numbers"),
        (ContinuousDilemma, {"endowments": [1.0, 2.0, 0.0, 1.0]}, ValueError, "every entry must be > 0"),
        (ContinuousDilemma, {"productivities": [1.0, -2.0, 0.0, 1.0]}, ValueError, "productivities="),
        (ContinuousDilemma, {"punishment": 1}, TypeError, "punishment=1"),
        (ContinuousDilemma, {"endowment": 0.0}, ValueError, "endowment=0.0"),
    ],
)
def test_bad_fields_are_refused(make, fields, error, message):
    with pytest.raises(error, match=message):
        make(**fields)
