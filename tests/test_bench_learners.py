"""`marl-bench bench learners`: its requests, and that the peer's loop is the same algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_bench import make_learner
from marl_bench.algorithms.equations import gae
from marl_bench.errors import UsageError
from marl_bench.experiments import bench_learners, peer_ppo


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
