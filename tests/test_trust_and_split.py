"""Trust-and-split: talk, splits, closed-form payoffs, and diagnostics of the channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench import check_environment
from marl_bench.envs.trust_and_split import diagnostics, rules
from marl_bench.envs.trust_and_split.trust_and_split import TrustAndSplit
from marl_bench.scripted import random_policy

KEY = jax.random.key(0)


def rollout(env, policy, num_episodes, seed=0):
    """(rewards [E, T, 2], extras [E, T, ...]) of whole episodes."""

    def play(key):
        key_reset, key_play = jax.random.split(key)

        def body(carry, key):
            state, timestep = carry
            state, timestep = env.step(state, policy(state, timestep.observation, key))
            return (state, timestep), (timestep.reward, timestep.extras)

        return jax.lax.scan(body, env.reset(key_reset), jax.random.split(key_play, env.fixed_horizon))[1]

    return jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(seed), num_episodes))


def against(env, first, second):
    """Agent 0 plays one scripted policy, agent 1 another."""
    known = env.scripted_policies()

    def policy(state, observation, key):
        both = [known[name](state, observation, key) for name in (first, second)]
        return jnp.stack([both[0][0], both[1][1]])

    return policy


# --- payoffs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (rules.greedy, rules.greedy, (27.5, 27.5)),
        (rules.honest, rules.honest, (50, 50)),
        (rules.equal, rules.equal, (27.5, 27.5)),
        (rules.greedy, rules.honest, (52.5, 25)),
    ],
)
def test_expected_payoffs_by_enumeration(first, second, expected):
    np.testing.assert_allclose(rules.expected_payoffs(first, second), expected)
    np.testing.assert_allclose(rules.expected_payoffs(second, first), expected[::-1])


def test_no_claims_without_talk_beat_55_in_total():
    # Without talk a claim may depend on the own hand only. One's own hand does not tell who won, so 55 is the best total.
    best = 0.0
    grid = np.array(np.meshgrid(*[[0, 5, 10]] * 6)).reshape(6, -1).T
    for claims in grid:
        found = rules.expected_payoffs(lambda own, _, c=claims: c[own], lambda own, _, c=claims: c[3 + own])
        best = max(best, found.sum())
    assert best == pytest.approx(55)


@given(st.integers(0, 10), st.integers(0, 10))
@settings(max_examples=40, deadline=None)
def test_shares_never_exceed_the_coins(first, second):
    coins = np.asarray(rules.shares(jnp.array([first, second])))
    assert coins.sum() <= 10 + 1e-5
    assert (abs(coins.sum() - 10) < 1e-5) == (first + second >= 10)
    if first + second <= 10:
        np.testing.assert_allclose(coins, [first, second])
    np.testing.assert_allclose(rules.shares(jnp.array([second, first])), coins[::-1])


def test_hands_win_in_a_cycle():
    # Paper beats rock, scissors beat paper, rock beats scissors.
    assert [bool(rules.wins(a, b)) for a, b in ((1, 0), (2, 1), (0, 2), (0, 1), (1, 2), (2, 0))] == [True] * 3 + [
        False
    ] * 3
    np.testing.assert_array_equal(rules.values(jnp.array([1, 0], jnp.int8), 10, 1), [10, 1])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("cooperate", "cooperate", (50, 50)),
        ("defect", "defect", (27.5, 27.5)),
        ("defect", "cooperate", (52.5, 25)),
        ("equal", "equal", (27.5, 27.5)),
    ],
)
def test_scripted_play_earns_the_closed_form(first, second, expected):
    env = TrustAndSplit()
    rewards, _ = rollout(env, against(env, first, second), 400)
    per_round = np.asarray(rewards).sum(axis=1) / env.rounds
    error = per_round.std(axis=0) / 400**0.5
    assert (np.abs(per_round.mean(axis=0) - expected) <= 4 * error + 1e-3).all()


def test_lies_cost_the_one_who_believes_them():
    env = TrustAndSplit()
    rewards, extras = rollout(env, against(env, "liar", "cooperate"), 400)
    mean = np.asarray(rewards).sum(axis=1).mean(axis=0) / env.rounds
    # If the liar lost, the trusting agent hears its own hand and claims half: 10/3 coins for it, 20/3 for the liar. If the
    # liar won, it hears a hand that its own beats and claims all: five coins each.
    np.testing.assert_allclose(mean, [(20 / 3 + 50) / 2, (100 / 3 + 5) / 2], atol=2.0)
    over, hands, tokens = (np.asarray(extras[name]) for name in ("round_over", "hands", "tokens"))
    np.testing.assert_array_equal(tokens[over][:, 0], 1 + (hands[over][:, 0] + 1) % 3)


# --- phases --------------------------------------------------------------------------------------


def test_a_round_step_by_step():
    env = TrustAndSplit(turns=1, vocabulary=5)
    state, timestep = env.reset(KEY)
    state = state.replace(hands=jnp.array([1, 0], jnp.int8))
    talk = np.arange(16) < 5
    np.testing.assert_array_equal(timestep.observation.action_mask, [talk, np.arange(16) == 0])
    # Agent 0 says 3; agent 1 is silent whatever it chooses.
    state, timestep = env.step(state, jnp.array([3, 4]))
    np.testing.assert_array_equal(state.tokens, [[3], [-1]])
    np.testing.assert_array_equal(timestep.observation.action_mask, [np.arange(16) == 0, talk])
    state, timestep = env.step(state, jnp.array([2, 4]))
    np.testing.assert_array_equal(state.tokens, [[3], [4]])
    np.testing.assert_array_equal(timestep.observation.action_mask, [~talk, ~talk])
    # Claims 8 and 6 for 14: 10 * 8 / 14 and 10 * 6 / 14 coins, worth 10 and 1 each.
    state, timestep = env.step(state, jnp.array([5 + 8, 5 + 6]))
    np.testing.assert_allclose(timestep.reward, [10 * 80 / 14, 60 / 14], rtol=1e-6)
    assert bool(timestep.extras["round_over"]) and float(timestep.extras["metrics"]["split"]) == 1
    np.testing.assert_array_equal(timestep.extras["hands"], [1, 0])
    assert float(timestep.extras["metrics"]["winner_coins"]) == pytest.approx(8 / 14)
    # The next round is dealt and agent 1 starts; the last round is public.
    assert int(state.round) == 1 and bool(state.hands[0] != state.hands[1])
    np.testing.assert_array_equal(timestep.observation.action_mask, [np.arange(16) == 0, talk])
    record = np.asarray(timestep.observation.agents_view)[:, -11:]
    first = [0, 1, 0, 1, 0, 0, 1, 0.8, 0.6, 8 / 14, 6 / 14]
    second = [1, 0, 0, 0, 1, 0, 0, 0.6, 0.8, 6 / 14, 8 / 14]
    np.testing.assert_allclose(record, [first, second], rtol=1e-6)


def test_nobody_claims_anything():
    env = TrustAndSplit(turns=0)
    state, _ = env.reset(KEY)
    _, timestep = env.step(state, jnp.array([4, 0]))
    np.testing.assert_array_equal(timestep.reward, [0, 0])


def test_agents_see_neither_the_other_hand_nor_the_value():
    env = TrustAndSplit()
    state, _ = env.reset(KEY)
    for own, others in ((0, (1, 2)), (1, (0, 2)), (2, (0, 1))):
        views = [
            env._observation(state.replace(hands=jnp.array([own, other], jnp.int8))).agents_view[0] for other in others
        ]
        np.testing.assert_array_equal(views[0], views[1])
        np.testing.assert_array_equal(views[0][:3], np.eye(3)[own])


def test_episodes_are_truncated_and_deals_are_uniform():
    env = TrustAndSplit(turns=1, rounds=4)
    rewards, extras = rollout(env, random_policy(env), 1500)
    assert rewards.shape[1] == env.fixed_horizon == 12
    over, hands = np.asarray(extras["round_over"]), np.asarray(extras["hands"])
    np.testing.assert_array_equal(over[0], [False, False, True] * 4)
    pairs, counts = np.unique(hands[over] @ [3, 1], return_counts=True)
    assert len(pairs) == 6
    np.testing.assert_allclose(counts, 1000, atol=4 * (6000 * 5 / 36) ** 0.5)
    # Uniform claims with hands that say nothing about winning: both earn the same.
    mean = np.asarray(rewards).sum(axis=1).mean(axis=0) / 4
    assert abs(mean[0] - mean[1]) < 2.5


def test_swapping_the_agents_swaps_everything_and_token_names_mean_nothing():
    env = TrustAndSplit(vocabulary=5)
    state, _ = env.reset(KEY)
    state = state.replace(hands=jnp.array([2, 0], jnp.int8), phase=jnp.int8(2), tokens=jnp.array([[1], [3]], jnp.int8))
    swapped = state.replace(hands=state.hands[::-1], tokens=state.tokens[::-1])
    renamed = state.replace(tokens=jnp.array([[4], [2]], jnp.int8))
    actions = jnp.array([5 + 9, 5 + 4])
    view = env._observation(state).agents_view
    np.testing.assert_array_equal(env._observation(swapped).agents_view[::-1], view)
    reward = env.step(state, actions)[1].reward
    np.testing.assert_array_equal(env.step(swapped, actions[::-1])[1].reward, reward[::-1])
    np.testing.assert_array_equal(env.step(renamed, actions)[1].reward, reward)
    # Renaming moves the ones inside the token blocks and nothing else: 3 + 3 + 1 entries come before them.
    changed = np.flatnonzero(np.asarray(env._observation(renamed).agents_view != view).any(axis=0))
    assert set(changed) <= set(range(7, 17)) and len(changed) > 0


# --- diagnostics -----------------------------------------------------------------------------------


def test_mutual_information_by_hand():
    perfect = jnp.eye(3) * 30
    assert float(diagnostics.mutual_information(perfect, corrected=False)) == pytest.approx(np.log(3), rel=1e-5)
    # Miller-Madow: each entropy gains (3 - 1) / 180, and 2 of 3 terms have positive sign.
    assert float(diagnostics.mutual_information(perfect)) == pytest.approx(np.log(3) + 2 / 180, rel=1e-5)
    assert float(diagnostics.mutual_information(jnp.ones((3, 4)), corrected=False)) == pytest.approx(0, abs=1e-6)
    assert float(diagnostics.speaker_consistency(perfect)) == pytest.approx(1, rel=1e-5)
    assert float(diagnostics.speaker_consistency(jnp.ones((3, 4)))) == pytest.approx(0, abs=1e-6)
    assert float(diagnostics.speaker_consistency(jnp.array([[3.0, 2.0], [0.0, 0.0]]))) == 0


def test_the_correction_removes_most_of_the_bias():
    samples = 60

    def estimate(key):
        key_hand, key_token = jax.random.split(key)
        hands = jax.random.randint(key_hand, (samples,), 0, 3)
        tokens = jax.random.randint(key_token, (samples,), 0, 4)
        counts = diagnostics.joint_counts(hands, tokens, 3, 4)
        return diagnostics.mutual_information(counts, False), diagnostics.mutual_information(counts)

    plain, corrected = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 2000))
    bias = (3 - 1) * (4 - 1) / (2 * samples)
    assert float(plain.mean()) == pytest.approx(bias, rel=0.15)
    assert abs(float(corrected.mean())) < 0.15 * bias


def test_lies_are_measured_against_the_best_fitting_meaning():
    counts = jnp.array([[8.0, 2.0, 0.0], [1.0, 9.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(diagnostics.majority_map(counts), [0, 1, 0])
    assert float(diagnostics.lie_rate(counts)) == pytest.approx(3 / 20)
    # A code that consistently names another hand is no lie by this measure.
    assert float(diagnostics.lie_rate(jnp.roll(jnp.eye(3), 1, axis=1))) == 0


def test_causal_influence_is_a_mean_total_variation():
    splits = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    assert float(diagnostics.causal_influence(splits)) == pytest.approx(0.5)
    assert float(diagnostics.causal_influence(splits, [0.9, 0.1])) == pytest.approx(0.18)
    assert float(diagnostics.causal_influence(jnp.full((4, 11), 1 / 11))) == pytest.approx(0, abs=1e-7)


def test_diagnostics_read_recorded_play():
    env = TrustAndSplit(rounds=4)
    _, extras = rollout(env, env.scripted_policies()["cooperate"], 200)
    over = np.asarray(extras["round_over"])
    hands, tokens = np.asarray(extras["hands"])[over][:, 0], np.asarray(extras["tokens"])[over][:, 0]
    counts = diagnostics.joint_counts(hands, tokens, 3, env.vocabulary)
    assert float(counts.sum()) == 800 and float(diagnostics.lie_rate(counts)) == 0
    assert float(diagnostics.speaker_consistency(counts)) == pytest.approx(1, rel=1e-4)


# --- contract --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [marl_bench.make("trust_and_split", rounds=3), TrustAndSplit(turns=2, vocabulary=6, observe_round=True, rounds=3)],
    ids=["default", "two_turns"],
)
def test_conforms(env):
    assert check_environment(env, num_steps=40) == []


def test_one_program_runs_different_stakes():
    cells = [TrustAndSplit(turns=0, high=high) for high in (2.0, 10.0)]
    stack = jax.tree.map(lambda *leaves: jnp.asarray(leaves), *cells)
    state, _ = cells[0].reset(KEY)
    rewards = jax.vmap(lambda env: env.step(state, jnp.array([9, 9]))[1].reward)(stack)
    np.testing.assert_allclose(np.sort(rewards, axis=1), [[5, 10], [5, 50]])


def test_picture_shows_hands_and_tokens():
    env = TrustAndSplit()
    state, _ = env.reset(KEY)
    before = env.render(state)
    after = env.render(env.step(state, jnp.array([2, 0]))[0])
    assert before.shape == after.shape == (120, 320, 3) and before.dtype == np.uint8
    assert (before != after)[:60].any() and not (before != after)[60:].any()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"vocabulary": 3}, ValueError, "vocabulary=3"),
        ({"turns": -1}, ValueError, "turns=-1"),
        ({"rounds": 0}, ValueError, "rounds=0"),
        ({"high": float("nan")}, ValueError, "high=nan"),
        ({"observe_round": 1}, TypeError, "observe_round=1"),
    ],
)
def test_bad_fields_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        TrustAndSplit(**fields)
