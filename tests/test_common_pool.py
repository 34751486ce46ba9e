"""The common pool: rounds by hand, rationing, growth, perturbations, scripted policies, metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench import check_environment
from marl_bench.envs.common_pool import metrics, rules
from marl_bench.envs.common_pool.common_pool import CommonPool
from marl_bench.scripted import random_policy

KEY = jax.random.key(0)


def play(env, policy, key=KEY):
    """(rewards [T, N], stocks [T], played [T], collapsed, exceeded [T, N]) of `horizon` rounds; frozen after the end."""

    def body(carry, key):
        state, timestep, running = carry
        state, timestep = env.step(state, policy(state, timestep.observation, key))
        ended = timestep.last()
        collapsed = running & (timestep.discount[0] == 0)
        outcome = (timestep.reward, state.stock, running, collapsed, timestep.extras["defections"])
        return (state, timestep, running & ~ended), outcome

    key_reset, key_play = jax.random.split(key)
    start = (*env.reset(key_reset), jnp.asarray(True))
    rewards, stocks, played, collapsed, exceeded = jax.lax.scan(body, start, jax.random.split(key_play, env.horizon))[1]
    return rewards * played[:, None], stocks, played, collapsed.any(), exceeded


@pytest.mark.parametrize(
    ("request_", "rounds", "total"), [(10, 12, 600), (11, 4, 195), (12, 3, 160), (15, 2, 125), (20, 1, 100)]
)
def test_equal_constant_requests(request_, rounds, total):
    env = CommonPool()
    rewards, stocks, played, collapsed, exceeded = jax.jit(lambda: play(env, lambda *_: jnp.full(5, request_)))()
    assert int(played.sum()) == rounds and float(rewards.sum()) == total
    assert bool(collapsed) == (rounds < 12)
    if request_ == 10:
        assert (np.asarray(stocks) == 100).all()
    found = metrics.summarise(rewards, exceeded, played, collapsed, 100)
    assert (float(found.survival_time), float(found.survived), float(found.total_gain)) == (rounds, rounds == 12, total)
    assert float(found.equality) == pytest.approx(1)
    assert float(found.efficiency) == pytest.approx(1 - max(0, 600 - total) / 600)
    assert float(found.over_use) == float(request_ > 10)


SCRIPTED = {"sustainable": 600, "greedy": 100, "planner": 650, "grim": 600, "punisher": 600}


@pytest.mark.parametrize("requests", ["units", "coarse", "continuous"])
def test_scripted_policies_against_themselves(requests):
    env = CommonPool(requests=requests)
    policies = env.scripted_policies()
    totals = {name: float(jax.jit(lambda name=name: play(env, policies[name])[0].sum())()) for name in SCRIPTED}
    assert totals == SCRIPTED


def test_grim_and_punisher_answer_a_greedy_agent():
    env = CommonPool()
    policies = env.scripted_policies()

    def mixed(name):
        def policy(state, observation, key):
            own = policies[name](state, observation, key)
            return own.at[0].set(jnp.where(state.step_count == 0, 18, 10))

        return policy

    # Round 1: 18 + 4 * 10 = 58 leaves 42, which grow to 84; f(84) = 8, an equal part is 16.
    state, timestep = env.reset(KEY)
    state, timestep = env.step(state, mixed("grim")(state, None, KEY))
    assert float(state.stock) == 84 and bool(state.broken)
    np.testing.assert_array_equal(policies["grim"](state, None, KEY), [16] * 5)
    # The excess of agent 0 was 8; the others saw 8 / 4 = 2 on average, agent 0 saw none.
    np.testing.assert_array_equal(policies["punisher"](state, None, KEY), [8, 10, 10, 10, 10])
    np.testing.assert_array_equal(policies["sustainable"](state, None, KEY), [8] * 5)
    np.testing.assert_array_equal(timestep.extras["defections"], [True, False, False, False, False])


def test_observation_starts_with_me():
    env = CommonPool(players=3, observe_round=True, observe_share=True)
    state, timestep = env.reset(KEY)
    np.testing.assert_allclose(timestep.observation.agents_view, [[1, 0, 0, 0, 0, 0.16]] * 3, rtol=1e-6)
    _, timestep = env.step(state, jnp.array([10, 20, 30]))
    # 60 caught, 40 left, 80 after growth; f(80) = floor(40 / 3) = 13; one of 12 rounds played.
    expected = [
        [0.8, 0.1, 0.2, 0.3, 1 / 12, 0.13],
        [0.8, 0.2, 0.3, 0.1, 1 / 12, 0.13],
        [0.8, 0.3, 0.1, 0.2, 1 / 12, 0.13],
    ]
    np.testing.assert_allclose(timestep.observation.agents_view, expected, rtol=1e-5)


# --- rationing -------------------------------------------------------------------------------------

RATIONING = {
    "proportional_real": lambda requests, stock, key: rules.share_real(requests, stock),
    "proportional": lambda requests, stock, key: rules.share_whole(requests, stock, jax.random.uniform(key, (4,))),
    "stochastic": lambda requests, stock, key: rules.share_by_lot(requests, stock, jax.random.uniform(key, (50,))),
}
COMPILED = {name: jax.jit(function) for name, function in RATIONING.items()}


@pytest.mark.parametrize("name", sorted(RATIONING))
@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.integers(0, 50), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_rationing_hands_out_all_there_is_and_no_more_than_asked(name, requests, stock, seed):
    asked = jnp.asarray(requests, jnp.float32)
    caught = np.asarray(COMPILED[name](asked, jnp.float32(stock), jax.random.key(seed)))
    assert (caught >= 0).all() and (caught <= np.asarray(requests) + 1e-4).all()
    np.testing.assert_allclose(caught.sum(), min(stock, sum(requests)), rtol=1e-5)
    if sum(requests) <= stock:
        np.testing.assert_array_equal(caught, requests)
    if name != "proportional_real":
        np.testing.assert_array_equal(caught, np.round(caught))
    if name == "proportional" and sum(requests) > stock:
        assert (np.abs(caught - stock * np.asarray(requests) / sum(requests)) < 4).all()


def test_lots_are_fair_among_those_who_still_want():
    asked = jnp.array([1.0, 5.0, 5.0, 0.0])
    keys = jax.random.split(KEY, 4000)
    caught = np.asarray(jax.jit(jax.vmap(lambda key: RATIONING["stochastic"](asked, jnp.float32(2.0), key)))(keys))
    # Two units: agent 0 gets one unless both go elsewhere, (2/3)^2; agents 1 and 2 share the rest.
    mean = caught.mean(axis=0)
    np.testing.assert_allclose(mean, [5 / 9, 13 / 18, 13 / 18, 0], atol=4 * (1 / 4000) ** 0.5)
    assert (caught.sum(axis=1) == 2).all() and caught[:, 0].max() == 1


def test_whole_shares_draw_the_rest_in_proportion_to_what_is_wanted():
    asked = jnp.array([4.0, 4.0, 2.0, 0.0])
    keys = jax.random.split(KEY, 4000)
    caught = np.asarray(jax.jit(jax.vmap(lambda key: RATIONING["proportional"](asked, jnp.float32(6.0), key)))(keys))
    # Exact shares 2.4, 2.4, 1.2: integer parts 2, 2, 1 and one unit drawn with weights 2, 2, 1.
    np.testing.assert_allclose(caught.mean(axis=0), [2.4, 2.4, 1.2, 0], atol=4 * (0.24 / 4000) ** 0.5)


# --- growth and perturbations ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "stock", "rate", "expected"),
    [
        ("doubling", 30, 1.0, 60),
        ("doubling", 70, 1.0, 100),
        ("doubling", 40, 0.5, 60),
        ("logistic", 50, 1.0, 75),
        ("logistic", 100, 2.0, 100),
        ("allee", 10, 1.0, 5.5),
        ("allee", 20, 1.0, 20),
        ("allee", 50, 1.0, 87.5),
    ],
)
def test_growth_by_hand(form, stock, rate, expected):
    assert float(rules.grow(jnp.float32(stock), 100.0, form, rate, 20.0)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("stock", "players", "share"), [(100, 5, 10), (99, 5, 9), (84, 5, 8), (9, 5, 0), (60, 2, 15)])
def test_sustainable_share_is_whole(stock, players, share):
    assert float(rules.sustainable_share(stock, players)) == share


def test_a_newcomer_takes_the_last_place():
    env = CommonPool(newcomer_round=2)
    cooperate = env.scripted_policies()["cooperate"]
    rewards, _, played, *_ = jax.jit(lambda: play(env, cooperate))()
    np.testing.assert_array_equal(rewards[:2], 10)
    # From round 2 on the last agent asks for h / 5; the others adapt their share, so the stock falls but lasts.
    np.testing.assert_array_equal(rewards[2], [10, 10, 10, 10, 20])
    np.testing.assert_array_equal(rewards[3], [8, 8, 8, 8, 16])
    assert bool(played[3]) and float(rewards[:, 4].sum()) > float(rewards[:, 0].sum())


def test_shocks_noise_and_hidden_caps_are_drawn_as_stated():
    env = CommonPool(growth_noise=0.2, shock_probability=0.25, shock_size=0.5, cap_spread=0.4)

    def one(key):
        state, _ = env.reset(key)
        cap = state.cap
        state, _ = env.step(state.replace(stock=jnp.float32(40.0)), jnp.full(5, 4))
        return cap, state.stock

    caps, stocks = map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(KEY, 4000)))
    assert caps.min() > 60 - 1e-3 and caps.max() <= 100 and caps.mean() == pytest.approx(80, abs=4 * 11.6 / 4000**0.5)
    # 20 left, doubled to 20 + 20 * U(0.8, 1.2) = 36 ... 44, or half of that after a shock.
    shocked = stocks < 25
    assert shocked.mean() == pytest.approx(0.25, abs=4 * (0.1875 / 4000) ** 0.5)
    calm = stocks[~shocked]
    assert calm.min() >= 36 - 1e-3 and calm.max() <= 44 + 1e-3 and calm.mean() == pytest.approx(40, abs=0.2)


def test_without_perturbations_nothing_is_random():
    assert CommonPool().reset(KEY)[0].key is None


# --- contract ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [
        marl_bench.make("fishery"),
        marl_bench.make("pasture_lots"),
        CommonPool(requests="continuous", growth="allee", growth_noise=0.2, shock_probability=0.1, cap_spread=0.2),
        CommonPool(players=2, requests="coarse", allocation="proportional", growth="logistic", newcomer_round=1),
    ],
    ids=["fishery", "lots", "perturbed", "coarse"],
)
def test_conforms(env):
    assert check_environment(env, num_steps=40) == []


def test_collapse_terminates_and_the_horizon_truncates():
    env = CommonPool(horizon=1)
    for amount, discount in ((10, 1), (20, 0)):
        state, _ = env.reset(KEY)
        _, timestep = env.step(state, jnp.full(5, amount))
        assert timestep.last() and (np.asarray(timestep.discount) == discount).all()
        np.testing.assert_array_equal(timestep.reward, amount)


def test_random_play_collapses_at_once():
    env = CommonPool()
    keys = jax.random.split(KEY, 500)
    rewards, _, played, collapsed, _ = jax.jit(jax.vmap(lambda key: play(env, random_policy(env), key)))(keys)
    assert collapsed.all() and float(rewards.sum(axis=(1, 2)).mean()) == pytest.approx(100, abs=2)
    assert float(played.sum(axis=1).mean()) < 1.1


def test_one_program_runs_pools_of_different_growth():
    cells = [CommonPool(growth_rate=rate) for rate in (0.5, 1.0, 1.5)]
    stack = jax.tree.map(lambda *leaves: jnp.asarray(leaves), *cells)
    stocks = jax.vmap(lambda env: env.step(env.reset(KEY)[0], jnp.full(5, 12))[0].stock)(stack)
    np.testing.assert_allclose(stocks, [60, 80, 100], rtol=1e-6)


def test_picture_shows_the_level():
    env = CommonPool()
    state, _ = env.reset(KEY)
    full = env.render(state)
    low = env.render(env.step(state, jnp.full(5, 15))[0])
    assert full.shape == low.shape == (160, 96 + 32 * 5, 3) and full.dtype == np.uint8
    # The tank is filled to the top at first and half empty then.
    assert tuple(full[20, 10]) != tuple(low[20, 10]) and tuple(full[150, 10]) == tuple(low[150, 10])


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"players": 1}, ValueError, "players=1: must be >= 2"),
        ({"allocation": "fair"}, ValueError, "allocation='fair'"),
        ({"growth": "exponential"}, ValueError, "growth='exponential'"),
        ({"requests": "continuous", "allocation": "stochastic"}, ValueError, "use 'proportional_real'"),
        ({"shock_probability": 1.5}, ValueError, "shock_probability=1.5"),
        ({"cap_spread": 1.0}, ValueError, "cap_spread=1.0"),
        (
            {"collapse": 30.5, "capacity": 30},
            ValueError,
            r"collapse=30.5: must be >= 0 and <= 30 \(field of CommonPool",
        ),
        ({"allee_threshold": 0.0}, ValueError, "allee_threshold=0.0"),
        ({"newcomer_round": 1.5}, TypeError, "newcomer_round=1.5"),
        ({"capacity": 100.0}, TypeError, "capacity=100.0"),
    ],
)
def test_bad_fields_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        CommonPool(**fields)
