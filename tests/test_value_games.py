"""iql, vdn, qmix and pqn in games with known answers: what each of them can represent, remember and bootstrap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_worlds import Chain, MemoryGame

from marl_bench import make, make_learner
from marl_bench.envs.games import GAMES

UNIFORM = {"initial_epsilon": 1.0, "final_epsilon": 1.0}
"""Uniform play throughout, as in the two-step experiment of the QMIX paper."""
REPLAY = {"learning_starts": 1, "target_period": 20, "batch_size": 32, "buffer_size": 1000, "evaluation_episodes": 128}


def trained(env, learner, updates, cells=1, stacked=False):
    """Parameters [cells, ...] after training, and [cells] mean greedy returns; `stacked`: one environment a cell."""

    def run(env, key):
        state = learner.init(key, env)
        state = jax.lax.fori_loop(0, updates, lambda _, state: learner.update(state, env)[0], state)
        return state.params, learner.evaluate(state, env)["return_mean_per_agent"]

    learner.validate(jax.tree.map(lambda leaf: leaf[0], env) if stacked else env)
    return jax.jit(jax.vmap(run, (0 if stacked else None, 0)))(env, jax.random.split(jax.random.key(0), cells))


def values(learner, params, views):
    """[..., N, A] action values of one cell's network for views [..., N, O] without a memory."""
    act = lambda view: learner.action_values(params, jnp.zeros((len(view), 0)), view, jnp.bool_(True))[1]  # noqa: E731
    return jax.jit(jax.vmap(act))(views)


@pytest.mark.parametrize(("name", "best"), [("vdn", 7.0), ("qmix", 8.0)])
def test_two_step(name, best):
    """A sum of values cannot see that 8 is there for both (Rashid et al. 2018, section 5)."""
    fields = {"num_envs": 8, "num_steps": 2, "hidden_sizes": (16,), "learning_rate": 5e-3}
    learner = make_learner(name, **{**UNIFORM, **REPLAY, **fields})
    np.testing.assert_allclose(trained(make("two_step"), learner, 400, cells=2)[1], best)


TABLES = ("additive", "climbing", "penalty", "non_monotone")


def joint_table(learner, env, params):
    """[3, 3] value of the team of every joint action, where there is one view only."""
    q = values(learner, params, jnp.ones((1, 2, 1)))[0]
    pairs = jnp.stack(jnp.meshgrid(q[0], q[1], indexing="ij"), axis=-1)
    state = jnp.broadcast_to(env.global_state(env.reset(jax.random.key(0))[0]), (3, 3, 10))
    return learner.joint(params, pairs, state)[..., 0]


def representable(table):
    """The sum of a row's and a column's number that is nearest to a table."""
    return table.mean(1, keepdims=True) + table.mean(0, keepdims=True) - table.mean()


@pytest.mark.parametrize("name", ["vdn", "qmix"])
def test_what_a_table_of_payoffs_becomes(name):
    """Four games at once, one step each, uniform play: the nearest table that the mixing can represent.

    A sum finds the nearest additive table, so it is right in the additive game and elsewhere plays what is best on average.
    A monotonic mixture must put the non-monotone game's best action lowest; the five entries that this makes equal become
    their mean, -8, and the rest 0 (isotonic regression).
    """
    tables = np.stack([GAMES[game] for game in TABLES]).astype(np.float32)
    env = make("matrix_game", game="custom", payoff=jnp.asarray(tables), observe="constant", horizon=1)
    tables, updates = tables[:, 0], 700
    fields = {"num_envs": 16, "num_steps": 1, "hidden_sizes": (16,), "sharing": "independent", "team_reward": "mean"}
    steps = {"learning_rate": 2e-2, "learning_rate_steps": 16 * updates}
    learner = make_learner(name, **UNIFORM, **REPLAY, **fields, **steps)
    params, paid = trained(env, learner, updates, cells=len(TABLES), stacked=True)
    found = np.asarray(jax.vmap(lambda env, params: joint_table(learner, env, params))(env, params))
    scale = np.ptp(tables, axis=(1, 2))
    if name == "qmix":
        expected = np.array([[-8, -8, -8], [-8, 0, 0], [-8, 0, 0]])
        np.testing.assert_allclose(found[3], expected, atol=1)
        np.testing.assert_allclose(found[0], tables[0], atol=0.3)
        assert paid[0] == 6 and paid[3] == 0
    else:
        nearest = np.stack([representable(table) for table in tables])
        assert (np.abs(found - nearest).max(axis=(1, 2)) < 0.07 * scale).all()
        np.testing.assert_allclose(paid, [6, 5, 2, 0])


def test_independent_learners_average_over_the_others():
    """A value of one's own is the mean of the row, so climbing ends in the action that is safe."""
    fields = {"num_envs": 16, "num_steps": 1, "sharing": "independent", "hidden_sizes": (16,), "learning_rate": 2e-2}
    learner = make_learner("iql", **{**UNIFORM, **REPLAY, **fields, "learning_rate_steps": 16 * 700})
    params, paid = trained(make("climbing", horizon=1), learner, 700)
    q = values(learner, jax.tree.map(lambda leaf: leaf[0], params), jnp.ones((1, 2, 1)))[0]
    table = GAMES["climbing"][0]
    np.testing.assert_allclose(q, [table.mean(axis=1), table.mean(axis=0)], atol=2)
    assert paid == 5


@pytest.mark.parametrize("name", ["vdn", "pqn"])
def test_consensus_in_one_step(name):
    """All agents in the middle is worth 1."""
    fields = {"num_envs": 16, "num_steps": 1, "anneal_steps": 4000, "hidden_sizes": (16,), "learning_rate": 5e-3}
    own = {"minibatches": 1, "epochs": 2, "mixing": "vdn"} if name == "pqn" else REPLAY
    _, found = trained(make("consensus", players=3), make_learner(name, **fields, **own), 400)
    np.testing.assert_allclose(found, 1.0)


@pytest.mark.parametrize(("name", "size"), [("iql", 12), pytest.param("pqn", 12, marks=pytest.mark.slow), ("pqn", 0)])
def test_a_cue_is_remembered_with_a_gru_only(name, size):
    """Episodes of three steps in sequences of four: the memory is cleared inside and carried between."""
    fields = {"num_envs": 32, "num_steps": 4, "hidden_sizes": (12,), "recurrent_size": size, "learning_rate": 1e-2}
    own = {"minibatches": 2} if name == "pqn" else REPLAY
    learner = make_learner(name, **{**fields, **own, "anneal_steps": 10_000, "evaluation_episodes": 512})
    _, found = trained(MemoryGame(), learner, 120)
    assert found[0] > 0.97 if size else found[0] < 0.6


@pytest.mark.parametrize(("name", "steps"), [("iql", 5), ("pqn", 2), ("pqn", 7)])
def test_values_of_a_game_that_is_only_cut(name, steps):
    """Exact values, cut at a sequence's end or inside: not those of a game that ends, nor of one that goes on after a restart."""
    discount = 0.7
    fields = {"num_envs": 16, "num_steps": steps, "hidden_sizes": (), "learning_rate": 0.03, "discount": discount}
    own = {"minibatches": 2} if name == "pqn" else REPLAY
    learner = make_learner(name, **UNIFORM, **fields, **own, td_lambda=0.5)
    params, _ = trained(Chain(), learner, 250)
    found = values(learner, jax.tree.map(lambda leaf: leaf[0], params), jnp.eye(3)[:, None])[:, 0]
    np.testing.assert_allclose(found, np.broadcast_to(Chain.values(discount)[:, None], (3, 2)), atol=0.02)
