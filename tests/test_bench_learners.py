"""`marl-bench bench learners`: its requests, and that the peer's loop is the same algorithm."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_bench import make, make_learner
from marl_bench.algorithms.equations import gae
from marl_bench.errors import UsageError
from marl_bench.experiments import bench_learners, peer_ppo, peer_q_learning


@pytest.mark.parametrize(
    ("against", "only", "message"),
    [
        ("jaxmarl", "ippo-sprea", "--only ippo-sprea: no such contest; did you mean 'ippo-spread'"),
        ("jumanji", "ippo-spread", "no contest is left"),
        ("mava", None, "no contest is left"),
    ],
)
def test_requests_that_make_no_sense(against, only, message):
    with pytest.raises(UsageError, match=message):
        bench_learners.main(against, only)


def test_the_peers_hyperparameters_are_those_of_our_defaults():
    settings, learner = peer_ppo.Settings(), make_learner("ippo")
    names = set(vars(settings)) - {"hidden"}
    assert {name: getattr(learner, name) for name in names} == {name: getattr(settings, name) for name in names}
    assert learner.hidden_sizes == (settings.hidden, settings.hidden) and learner.adam_epsilon == 1e-5


def test_the_peers_advantages_are_ours_where_every_end_is_the_games_own():
    rng, shape = np.random.default_rng(0), (20, 2, 3)
    value, reward = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    done, last = jnp.asarray(rng.random(shape) < 0.2), jnp.asarray(rng.normal(size=shape[1:]), jnp.float32)
    settings = peer_ppo.Settings()
    nothing = jnp.zeros(shape)
    sample = peer_ppo._Sample(nothing, nothing, nothing, nothing, value, reward, done)
    theirs = peer_ppo._advantages(sample, last, settings)
    following = jnp.concatenate([value[1:], last[None]])
    one = lambda r, v, n, e: gae(r, v, n, 1.0 - e, e, settings.discount, settings.gae_lambda)  # noqa: E731
    ours = jax.vmap(jax.vmap(one, 1, 1), 1, 1)(reward, value, following, done)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_every_contest_has_a_learner_for_its_world():
    found = bench_learners.contests()
    assert len({contest.name for contest in found}) == len(found)
    for contest in found:
        make_learner(contest.learner[0], **contest.learner[1]).validate(make(contest.world[0], **contest.world[1]))


@pytest.mark.parametrize("team", [True, False])
def test_the_peers_error_of_action_values(team):
    """Against the definition in NumPy, with values that are linear in the view: double, masked, cut at ends, no last step."""
    rng, (length, agents, rows, actions) = np.random.default_rng(0), (5, 2, 3, 4)
    settings = peer_q_learning.QSettings(team=team)
    view = rng.normal(size=(length, agents, rows, 6))
    mask = (rng.random((length, agents, rows, actions)) < 0.5) | (np.arange(actions) == 1)
    action = rng.integers(0, actions, (length, agents, rows))
    reward = rng.normal(size=(length, 1 if team else agents, rows))
    done, over = rng.random((2, length, rows)) < 0.3
    params, target = rng.normal(size=(2, 6, actions))
    linear = lambda weights, memory, view, before: (memory, view @ weights)  # noqa: E731
    sample = peer_q_learning._Episode(*map(jnp.asarray, (view, mask * 1.0, action, reward, done, over)))
    found = peer_q_learning._td_loss(jnp.asarray(params), jnp.asarray(target), linear, sample, settings)
    q, frozen = view @ params, view @ target
    best = np.where(mask, q, -np.inf).argmax(axis=-1)
    chosen = np.take_along_axis(q, action[..., None], -1)[..., 0]
    following = np.take_along_axis(frozen, best[..., None], -1)[..., 0]
    if team:
        chosen, following = chosen.sum(axis=1, keepdims=True), following.sum(axis=1, keepdims=True)
    goal = reward[:-1] + 0.9 * np.where(over, 0, 1)[:-1, None] * following[1:]
    assert float(found) == pytest.approx(np.mean((chosen[:-1] - goal) ** 2), rel=1e-5)


@pytest.mark.slow
def test_the_peers_q_learning_learns_once_it_may():
    """Networks move after `learning_starts` only, the target when its time has come, the ring takes whole episodes."""
    pytest.importorskip("jaxmarl")
    small = {"num_envs": 2, "buffer_size": 6, "batch_size": 4, "hidden": 8, "target_period": 3, "test_envs": 4}
    settings = peer_q_learning.QSettings(**small, learning_starts=2 * 2 * 26)
    start, update, test = peer_q_learning.peer_q_learning("MPE_simple_spread_v3", settings)
    carries, step = [jax.jit(start)(jax.random.key(0))], jax.jit(update)
    for _ in range(4):
        carries.append(step(carries[-1]))
    moved = [
        [
            any(
                bool(jnp.any(old != new)) for old, new in zip(*map(jax.tree.leaves, (before[i], after[i])), strict=True)
            )
            for before, after in itertools.pairwise(carries)
        ]
        for i in (0, 1, 3)  # networks, target, replay
    ]
    assert moved == [[False, False, True, True], [False, False, True, False], [True] * 4]
    ring = carries[-1].ring
    assert ring.view.shape == (6, 26, 3, 21) and np.asarray(ring.over).sum() == 6 and np.asarray(ring.over)[:, -1].all()
    returns = jax.jit(test)(carries[-1]).tested
    assert all(np.isfinite(value) for value in returns.values()) and float(returns["returned_episode_lengths"]) == 26
