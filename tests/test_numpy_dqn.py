"""The plain NumPy DQN: published test vectors, equations by hand, and the learner's schedule."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from marl_bench.envs import graphs
from marl_bench.experiments import numpy_dqn as nd

PAPER = nd.Settings()
# Twelve agents in replay of 30 steps fill one batch of 36 after three steps.
SMALL = nd.Settings(hidden_size=8, batch_size=36, buffer_steps=30, target_period=20, anneal_steps=100)


def random_batch(rng, shape, n_step=5, num_inputs=5):
    full = rng.random(shape) < 0.7
    window = 3 * rng.normal(size=(*shape, n_step))
    window[..., 1:] *= full[..., None]
    views = rng.integers(2, size=(2, *shape, num_inputs)).astype(float)
    return nd.Batch(views[0], rng.integers(2, size=shape), window, full, views[1])


def random_networks(rng, groups=1, num_inputs=5):
    settings = nd.Settings(hidden_size=7, num_groups=groups)
    return [nd.init_params(rng, num_inputs, settings, np.float64) for _ in range(2)]


def one_network(params, group=0):
    return {name: p[group] for name, p in params.items()}


# Rewards of C and of D with k = 0 ... 4 defecting neighbours, dilemma_strength 0.25 (published).
@pytest.mark.parametrize(
    ("own", "expected"), [(0, [1, 0.6875, 0.375, 0.0625, -0.25]), (1, [1.25, 0.9375, 0.625, 0.3125, 0])]
)
def test_reward_by_number_of_defecting_neighbours(own, expected):
    neighbours = graphs.torus(5)
    for defectors, reward in enumerate(expected):
        actions = np.zeros(25, np.int8)
        actions[neighbours[12][:defectors]] = 1
        actions[12] = own
        assert nd.rewards(actions, neighbours, nd.donation_payoff(0.25))[12] == reward


def test_views_are_neighbours_in_slot_order_then_oneself():
    #  1 0 0
    #  1 1 0
    #  0 1 0      centre (node 4): up 0, right 0, down 1, left 1, itself 1
    actions = np.array([1, 0, 0, 1, 1, 0, 0, 1, 0], np.int8)
    views = nd.observe(actions, graphs.torus(3))
    assert views.dtype == np.float32 and views.shape == (9, 5)
    assert views[4].tolist() == [0, 0, 1, 1, 1]
    # node 0: up wraps to 6, right 1, down 3, left wraps to 2
    assert views[0].tolist() == [0, 0, 1, 0, 1]
    history = np.stack([actions, 1 - actions])
    assert np.array_equal(nd.observe(history, graphs.torus(3))[1], 1 - views)


def test_temperature_schedule():
    taus = [nd.temperature(count, 0.66, 0.10, 95_000) for count in (0, 47_500, 95_000, 99_999)]
    assert taus == pytest.approx([0.66, 0.38, 0.10, 0.10], abs=1e-12)


INTENSITY = {0.100: 0.100000, 0.127: 0.120250, 0.193: 0.169750, 0.260: 0.219999, 0.327: 0.270249, 0.393: 0.319748}
INTENSITY |= {0.460: 0.369998, 0.527: 0.420248, 0.593: 0.469747, 0.660: 0.519997, 0.727: 0.570247, 0.793: 0.619746}


@pytest.mark.parametrize(("initial", "expected"), list(INTENSITY.items()))
def test_exploration_intensity_table(initial, expected):
    assert nd.exploration_intensity(initial) == pytest.approx(expected, abs=5.1e-7)
    logged = initial + (0.10 - initial) * np.arange(1, 47_501) / 95_000
    assert nd.exploration_intensity(initial) == pytest.approx(logged.mean(), abs=1e-12)


def test_initial_network_has_770_parameters_in_the_published_bounds():
    params = nd.init_params(np.random.default_rng(0), 5, PAPER)
    assert sum(p.size for p in params.values()) == 770
    assert {p.dtype for p in params.values()} == {np.dtype(np.float32)}
    for name, bound in {"w1": 0.44721, "b1": 0.44721, "w2": 0.10206, "b2": 0.10206}.items():
        assert np.abs(params[name]).max() <= bound + 1e-5
    assert np.abs(params["w1"]).max() > 0.43 and np.abs(params["w2"]).max() > 0.10
    assert params["b1"].std() == pytest.approx(0.44721 / np.sqrt(3), rel=0.15)


def test_full_run_has_23750_updates_and_47_target_copies():
    assert sum(nd.due(step, PAPER.update_period) for step in range(95_000)) == 23_750
    copies = [count for count in range(1, 95_001) if nd.due(count, PAPER.target_period)]
    assert len(copies) == 47 and copies[-1] == 94_000


def test_run_follows_the_schedule():
    run = nd.NumpyDQN(graphs.torus(6), nd.donation_payoff(0.25), SMALL, seed=3)
    assert run.updates == 0
    run.step()
    assert run.updates == 1
    rates = run.run(99)
    assert rates.shape == (99,)
    assert (run.count, run.updates, run.target_copies) == (100, 25, 5)
    assert all(np.array_equal(run.params[k], run.target_params[k]) for k in run.params)
    run.step()
    assert not np.array_equal(run.params["w2"], run.target_params["w2"])


def test_first_update_of_groups_of_9_follows_step_28():
    settings = nd.Settings(num_groups=4, buffer_steps=1000)
    run = nd.NumpyDQN(graphs.torus(6), nd.donation_payoff(0.25), settings)
    run.run(28)
    assert run.updates == 0
    run.step()
    assert run.updates == 1


def test_share_of_full_windows_in_replay():
    replay = nd.Replay(100, 1, 5)
    shares = []
    for _ in range(260):
        replay.append(np.zeros((1, 5)), np.zeros(1), np.zeros(1), np.zeros((1, 5)))
        slots = np.arange(replay.filled)
        shares.append(replay.gather(slots, np.zeros_like(slots), 5).full_window.mean())
    assert shares[5] == pytest.approx(1 / 3)
    assert shares[8] == pytest.approx(5 / 9)
    assert shares[98] > 0.959 and shares[98] != 0.96
    assert set(shares[99:]) == {0.96}


@pytest.mark.parametrize("newest_step", [0, 3, 4, 9, 10, 23])
def test_ring_equals_the_history_across_wrap_around(newest_step):
    neighbours, payoff = graphs.random_regular(12, 4, 5), nd.donation_payoff(0.3)
    history = np.random.default_rng(newest_step).integers(2, size=(newest_step + 2, 12), dtype=np.int8)
    views = nd.observe(history, neighbours, np.float64)
    replay = nd.Replay(10, 12, 5, np.float64)
    for step in range(newest_step + 1):
        reward = nd.rewards(history[step + 1], neighbours, payoff)
        replay.append(views[step], history[step + 1], reward, views[step + 1])
    slots, agents = (axis.reshape(-1) for axis in np.meshgrid(np.arange(replay.filled), np.arange(12)))
    steps = replay.step[slots]
    assert set(steps) == set(range(max(0, newest_step - 9), newest_step + 1))
    stored = replay.gather(slots, agents, 5)
    rebuilt = nd.batch_from_history(history, neighbours, payoff, steps, agents, newest_step, 5)
    for name in nd.Batch._fields:
        assert np.array_equal(getattr(stored, name), getattr(rebuilt, name)), name
    assert stored.full_window.sum() == 12 * max(0, replay.filled - 4)


def test_n_step_targets_by_hand():
    batch = nd.Batch(
        observation=np.zeros((2, 5)),
        action=np.zeros(2, int),
        rewards=np.array([[1.0, 2.0, 4.0], [1.0, 0.0, 0.0]]),
        full_window=np.array([True, False]),
        bootstrap_observation=np.zeros((2, 5)),
    )
    online = np.array([[0.0, 1.0], [1.0, 0.0]])
    target = np.array([[8.0, 6.0], [2.0, 3.0]])
    # full: 1 + 2/2 + 4/4 + 6/8 = 3.75; one step: 1 + 2/2 = 2
    assert nd.n_step_targets(batch, online, target, 0.5, 3).tolist() == [3.75, 2.0]
    # the target network's own best: 3 + 8/8 = 4; 1 + 3/2 = 2.5
    assert nd.n_step_targets(batch, online, target, 0.5, 3, double=False).tolist() == [4.0, 2.5]


def test_targets_of_full_cooperation_are_the_published_constants():
    history = np.zeros((12, 9), np.int8)

    def constant(value):
        return lambda views: np.full((len(views), 2), value)

    steps, agents = np.array([2, 6, 7, 10]), np.array([0, 4, 8, 1])
    args = (history, graphs.torus(3), nd.donation_payoff(0.25), steps, agents, 10, 5, 0.99)
    zero = nd.sample_targets_from_history(*args, constant(0.0), constant(0.0))
    # Ages 8 and 4 have five rewards, ages 3 and 0 have one.
    assert zero == pytest.approx([4.90099501, 4.90099501, 1, 1], abs=1e-8)
    one = nd.sample_targets_from_history(*args, constant(0.0), constant(1.0))
    assert one - zero == pytest.approx([0.95099005, 0.95099005, 0.99, 0.99], abs=1e-8)


@pytest.mark.parametrize("double", [True, False])
def test_gradient_equals_central_differences(double):
    rng = np.random.default_rng(1)
    params, target_params = (one_network(p) for p in random_networks(rng))
    batch = random_batch(rng, (40,))
    loss, gradient = nd.loss_and_gradient(params, target_params, batch, 0.9, 5, double)
    errors = nd.forward(params, batch.observation)[0][np.arange(40), batch.action] - nd.targets(
        params, target_params, batch, 0.9, 5, double
    )
    # Both branches of the Huber loss are in play.
    assert 0 < (np.abs(errors) > 1).sum() < 40
    assert loss == pytest.approx(float(optax.losses.huber_loss(errors).mean()), rel=1e-5)
    for name, value in params.items():
        for index in np.ndindex(value.shape):
            sides = []
            for shift in (1e-6, -1e-6):
                moved = {k: v.copy() for k, v in params.items()}
                moved[name][index] += shift
                sides.append(nd.loss_and_gradient(moved, target_params, batch, 0.9, 5, double)[0])
            assert gradient[name][index] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-7), (name, index)


def test_double_and_single_targets_differ_only_by_the_chosen_action():
    rng = np.random.default_rng(2)
    params, target_params = (one_network(p) for p in random_networks(rng))
    batch = random_batch(rng, (200,))
    double = nd.targets(params, target_params, batch, 0.9, 5, True)
    single = nd.targets(params, target_params, batch, 0.9, 5, False)
    online, target = (nd.forward(p, batch.bootstrap_observation)[0] for p in (params, target_params))
    agree = online.argmax(1) == target.argmax(1)
    assert 0 < agree.sum() < 200
    assert np.array_equal(double[agree], single[agree]) and (double[~agree] < single[~agree]).all()


def test_group_axis_equals_separate_networks():
    rng = np.random.default_rng(3)
    params, target_params = random_networks(rng, groups=3)
    batch = random_batch(rng, (3, 20))
    loss, gradient = nd.loss_and_gradient(params, target_params, batch, 0.99, 5)
    clipped = nd.clip_by_global_norm(gradient, 0.1)
    for group in range(3):
        alone = nd.Batch(*(field[group] for field in batch))
        own = one_network(params, group), one_network(target_params, group)
        loss_alone, gradient_alone = nd.loss_and_gradient(*own, alone, 0.99, 5)
        clipped_alone = nd.clip_by_global_norm(gradient_alone, 0.1)
        assert loss[group] == pytest.approx(loss_alone, rel=1e-12)
        for name in gradient:
            assert gradient[name][group] == pytest.approx(gradient_alone[name], abs=1e-14)
            assert clipped[name][group] == pytest.approx(clipped_alone[name], abs=1e-14)


def test_clip_and_adamw_equal_optax():
    rng = np.random.default_rng(4)
    params = one_network(nd.init_params(rng, 5, PAPER))
    optimiser = optax.chain(
        optax.clip_by_global_norm(0.5), optax.adamw(1e-2, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-1)
    )
    peer: Any = jax.tree.map(jnp.asarray, params)
    peer_state, state = optimiser.init(peer), nd.adam_init(params)

    @jax.jit
    def peer_step(gradient, state, params):
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for step in range(30):
        # Norms on both sides of the clip.
        scale = 10.0 ** -(step % 4)
        gradient = {k: (scale * rng.normal(size=p.shape)).astype(np.float32) for k, p in params.items()}
        peer, peer_state = peer_step(gradient, peer_state, peer)
        params, state = nd.adamw_step(params, nd.clip_by_global_norm(gradient, 0.5), state, 1e-2, 1e-1)
    for name in params:
        assert params[name].dtype == np.float32
        np.testing.assert_allclose(params[name], peer[name], rtol=2e-5, atol=2e-6)


def test_clip_leaves_small_and_zero_gradients_alone():
    zero = {"w1": np.zeros((5, 3)), "b1": np.zeros(3), "w2": np.zeros((3, 2)), "b2": np.zeros(2)}
    small = zero | {"b2": np.array([0.3, 0.4])}
    assert all(np.array_equal(nd.clip_by_global_norm(small, 0.5)[k], small[k]) for k in small)
    assert all(np.array_equal(nd.clip_by_global_norm(zero, 0.5)[k], zero[k]) for k in zero)
    assert nd.clip_by_global_norm(zero | {"b2": np.array([3.0, 4.0])}, 0.5)["b2"] == pytest.approx([0.3, 0.4])


def test_augmented_inputs_follow_the_counter():
    both = nd.Settings(learner_inputs=("temperature", "progress"))
    for count in (0, 1, 500, 94_998):
        tau, progress = nd.augmented_inputs(count, both)
        assert progress == pytest.approx((count + 1) / 95_000)
        assert tau == pytest.approx(1 - progress, abs=1e-12)
    assert nd.augmented_inputs(95_000, both) == [0, 1]
    assert nd.augmented_inputs(0, nd.Settings(learner_inputs=("progress",))) == pytest.approx([1 / 95_000])
    assert nd.augmented_inputs(0, PAPER) == []
    constant = nd.Settings(initial_temperature=0.1, learner_inputs=("temperature",))
    assert nd.augmented_inputs(7, constant) == [0]


def test_views_carry_the_augmented_inputs():
    settings = dataclasses.replace(SMALL, learner_inputs=("temperature", "progress"))
    run = nd.NumpyDQN(graphs.torus(6), nd.donation_payoff(0.25), settings)
    first = run.observation
    assert first.shape == (36, 7) and first.dtype == np.float32
    # o_0 and o_1 both carry 1 / A, later views t / A.
    assert first[0, 5:] == pytest.approx([0.99, 0.01])
    run.step()
    assert run.observation[0, 5:] == pytest.approx([0.99, 0.01])
    run.step()
    assert run.observation[35, 5:] == pytest.approx([0.98, 0.02])
    run.evaluate(2)
    assert run.observation[0, 5:].tolist() == [0, 1]


def test_groups_are_a_mixed_partition_with_their_own_networks():
    settings = dataclasses.replace(SMALL, num_groups=4, batch_size=16)
    run = nd.NumpyDQN(graphs.torus(6), nd.donation_payoff(0.25), settings, seed=1)
    assert run.members.shape == (4, 9)
    assert sorted(run.members.reshape(-1)) == list(range(36))
    assert not np.array_equal(np.sort(run.members.reshape(-1)), run.members.reshape(-1))
    run.run(40)
    values = run.q_values(run.observation)
    for group, members in enumerate(run.members):
        own, _ = nd.forward(one_network(run.params, group), run.observation[members])
        np.testing.assert_allclose(values[members], own, rtol=1e-5)
    assert len({p.tobytes() for p in run.params["w1"]}) == 4


def test_every_group_learns_from_its_own_records_only(monkeypatch):
    settings = dataclasses.replace(SMALL, num_groups=3, batch_size=24)
    run = nd.NumpyDQN(graphs.torus(6), nd.donation_payoff(0.25), settings, seed=2)
    asked = []
    gather = nd.Replay.gather
    monkeypatch.setattr(
        nd.Replay, "gather", lambda self, slot, agent, n: asked.append((slot, agent)) or gather(self, slot, agent, n)
    )
    run.run(41)
    assert len(asked) == run.updates == 10
    for slot, agent in asked:
        assert agent.shape == (3, 24) and slot.max() < 30
        assert all(set(row) <= set(members) for row, members in zip(agent, run.members, strict=True))
    assert set(np.unique(np.stack([slot for slot, _ in asked[-3:]]))) == set(range(30))
    assert set(np.unique(np.stack([agent for _, agent in asked]))) == set(range(36))


def test_seed_decides_the_run():
    def rates(seed):
        return nd.NumpyDQN(graphs.torus(6), nd.donation_payoff(0.25), SMALL, seed).run(60)

    assert np.array_equal(rates(1), rates(1))
    assert not np.array_equal(rates(1), rates(2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept(dtype):
    run = nd.NumpyDQN(graphs.torus(6), nd.donation_payoff(0.25), SMALL, dtype=dtype)
    run.run(25)
    kept = [*run.params.values(), *run.opt_state.mean.values(), *run.opt_state.variance.values()]
    assert {a.dtype for a in [*kept, run.observation, run.replay.reward]} == {np.dtype(dtype)}


def test_learner_finds_the_dominant_action():
    settings = dataclasses.replace(SMALL, learning_rate=1e-2, discount=0.5)
    neighbours = graphs.torus(6)
    for payoff, cooperation in (([[1, 1], [0, 0]], 1.0), ([[0, 0], [1, 1]], 0.0)):
        run = nd.NumpyDQN(neighbours, np.array(payoff), settings, seed=5)
        run.run(400)
        assert run.evaluate(50)["cooperation_rate"] == pytest.approx(cooperation, abs=0.02)


def test_evaluation_reports_the_boltzmann_policy_of_a_fixed_network():
    run = nd.NumpyDQN(graphs.torus(30), nd.donation_payoff(0.25), PAPER)
    run.params = {name: np.zeros_like(p) for name, p in run.params.items()}
    run.params["b2"][:] = [0.4, 0.5]
    before = {name: p.copy() for name, p in run.params.items()}
    outcome = run.evaluate(100)
    assert outcome["q_gap"] == pytest.approx(0.1, abs=1e-6)
    assert outcome["signed_gap"] == pytest.approx(-0.1, abs=1e-6)
    assert outcome["value_level"] == pytest.approx(0.45, abs=1e-6)
    # 1 / (1 + e), standard error 0.0015
    assert outcome["cooperation_rate"] == pytest.approx(0.268941, abs=0.006)
    assert outcome["cooperation_rate"] == pytest.approx(outcome["rates"].mean())
    assert all(np.array_equal(before[k], run.params[k]) for k in before)
    assert run.replay.filled == run.updates == run.count == 0


def test_training_acts_at_the_annealed_temperature():
    settings = nd.Settings(initial_temperature=1.0, anneal_steps=2, learning_rate=0.0, weight_decay=0.0)
    run = nd.NumpyDQN(graphs.torus(50), nd.donation_payoff(0.25), settings, seed=6)
    run.params = {name: np.zeros_like(p) for name, p in run.params.items()}
    run.params["b2"][:] = [0.2, 0.0]
    # tau = 1, 0.55, 0.1: 1 / (1 + exp(-0.2 / tau)); standard error 0.01
    assert run.run(3) == pytest.approx([0.5498, 0.5900, 0.8808], abs=0.04)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"initial_temperature": 0.0}, r"initial_temperature=0\.0"),
        ({"final_temperature": float("nan")}, "final_temperature=nan"),
        ({"max_gradient_norm": float("inf")}, "max_gradient_norm=inf"),
        ({"num_groups": 0}, "num_groups=0"),
        ({"learning_rate": -0.1}, r"learning_rate=-0\.1"),
        ({"discount": 1.5}, r"discount=1\.5"),
        ({"buffer_steps": 4}, "buffer_steps=4: must be from 5"),
        ({"target_period": 0}, "target_period=0"),
        ({"learner_inputs": ("time",)}, "learner_inputs"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(fields, words):
    with pytest.raises(ValueError, match=words):
        nd.Settings(**fields)


def test_runs_that_cannot_learn_are_refused():
    with pytest.raises(ValueError, match="num_groups=7: must divide the 36 agents"):
        nd.NumpyDQN(graphs.torus(6), nd.donation_payoff(0.25), nd.Settings(num_groups=7))
    with pytest.raises(ValueError, match="buffer_steps=5: must be >= 8"):
        nd.NumpyDQN(graphs.torus(6), nd.donation_payoff(0.25), nd.Settings(buffer_steps=5))
