"""The graph dilemma against the plain NumPy reference, and its published test vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench.envs import graph_families
from marl_bench.envs.closed_forms.evolution import graph_payoffs
from marl_bench.envs.graphs import random_regular, torus
from marl_bench.envs.network_dilemma import NetworkDilemma
from marl_bench.experiments import numpy_dqn

TOPOLOGIES = ("lattice", "rewired", "random", "modular")


def payoff_of(env: NetworkDilemma) -> np.ndarray:
    reward, sucker, temptation, punishment = env.payoffs()
    return np.array([[reward, sucker], [temptation, punishment]], np.float64)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_equals_the_numpy_oracle_for_1000_random_steps(topology: str) -> None:
    env = NetworkDilemma(topology=topology, dilemma_strength=0.3).prepare(7)
    table = np.asarray(env.neighbor_table)
    state, timestep = env.reset(jax.random.key(3))
    actions = jax.random.bernoulli(jax.random.key(4), 0.4, (1000, env.num_agents)).astype(jnp.int32)

    @jax.jit
    def rollout(state, actions):
        def step(carry, action):
            carry, timestep = env.step(carry, action)
            return carry, (timestep.observation.agents_view, timestep.reward, timestep.extras["metrics"])

        return jax.lax.scan(step, state, actions)

    _, (views, reward, metrics) = rollout(state, actions)
    np.testing.assert_array_equal(timestep.observation.agents_view, numpy_dqn.observe(np.asarray(state.actions), table))
    host = np.asarray(actions)
    np.testing.assert_array_equal(views, numpy_dqn.observe(host, table))
    np.testing.assert_allclose(reward, numpy_dqn.rewards(host, table, payoff_of(env)), atol=1e-6)
    np.testing.assert_allclose(metrics["cooperation_rate"], (host == 0).mean(1), atol=1e-6)


@pytest.mark.parametrize("defectors", range(5))
def test_published_payoff_vector(defectors: int) -> None:
    """Spec section 1: Dr = 0.25, k = 0 ... 4 defecting neighbours."""
    cooperate, defect = [1, 0.6875, 0.375, 0.0625, -0.25], [1.25, 0.9375, 0.625, 0.3125, 0]
    env = NetworkDilemma(dilemma_strength=0.25)
    for own, expected in ((0, cooperate), (1, defect)):
        code = jnp.uint8(sum(1 << j for j in range(defectors)) | own << 4)
        action, reward = env.code_outcome(code, jnp.int32(0))
        assert (int(action), float(reward)) == (own, pytest.approx(expected[defectors], abs=1e-7))


def test_lattice_slots_are_up_right_down_left_self() -> None:
    env = NetworkDilemma(side=4)
    actions = jnp.zeros(16, jnp.int32).at[5].set(1)  # row 1, column 1 defects
    _, timestep = env.step(env.reset(jax.random.key(0))[0], actions)
    seen = np.asarray(timestep.observation.agents_view)
    assert seen[9].tolist() == [1, 0, 0, 0, 0]  # below it: it is up
    assert seen[4].tolist() == [0, 1, 0, 0, 0]  # left of it: it is right
    assert seen[1].tolist() == [0, 0, 1, 0, 0]  # above it: it is down
    assert seen[6].tolist() == [0, 0, 0, 1, 0]  # right of it: it is left
    assert seen[5].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("observe", ["actions", "both"])
@pytest.mark.parametrize("topology", ["lattice", "random"])
def test_codes_enumerate_views(topology: str, observe: str) -> None:
    env = NetworkDilemma(side=6, topology=topology, observe=observe).prepare(1)
    state, _ = env.reset(jax.random.key(0))
    state, timestep = env.step(state, jax.random.bernoulli(jax.random.key(1), 0.5, (36,)))
    views = env.code_observations()[np.asarray(env.observation_code(state))]
    np.testing.assert_array_equal(views, timestep.observation.agents_view)
    assert env.observation_shape == views.shape[1:]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), rho=st.floats(0, 1))
def test_total_payoff_counts_edges(seed: int, rho: float) -> None:
    """Sum over agents = (2 R E_CC + (S + T) E_CD + 2 P E_DD) / k."""
    env = NetworkDilemma(side=5, dilemma_strength=None, reward=3.0, sucker=-1.0, temptation=5.0, punishment=0.5)
    actions = (np.random.default_rng(seed).random(25) > rho).astype(np.int32)
    _, timestep = env.step(env.reset(jax.random.key(0))[0], jnp.asarray(actions))
    pairs = actions[:, None] + actions[np.asarray(torus(5))]  # every edge twice
    both_c, mixed, both_d = ((pairs == k).sum() / 2 for k in (0, 1, 2))
    assert float(timestep.reward.sum()) == pytest.approx((6 * both_c + 4 * mixed + 1 * both_d) / 4, rel=1e-5)


def test_own_graph_equals_the_lattice() -> None:
    given_graph = NetworkDilemma(topology="given", neighbors=torus(6), side=6)
    lattice = NetworkDilemma(side=6)
    state, _ = lattice.reset(jax.random.key(0))
    actions = jax.random.bernoulli(jax.random.key(1), 0.5, (36,)).astype(jnp.int32)
    a, b = (env.step(state, actions)[1] for env in (given_graph, lattice))
    np.testing.assert_array_equal(a.observation.agents_view, b.observation.agents_view)
    np.testing.assert_array_equal(a.reward, b.reward)
    degree_three = NetworkDilemma(topology="given", neighbors=random_regular(20, 3, 0))
    assert (degree_three.num_agents, degree_three.num_codes, degree_three.observation_shape) == (20, 16, (4,))
    assert marl_bench.check_environment(degree_three) == []


SPARSE = graph_families.erdos_renyi(30, 0.06, seed=1)
"""Degrees 0 to 5."""


@pytest.mark.parametrize("graph", [SPARSE, graph_families.scale_free(40, 2, seed=1)], ids=["sparse", "scale_free"])
def test_irregular_graphs_pay_the_mean_over_the_neighbours_that_there_are(graph):
    env = NetworkDilemma(topology="irregular", neighbors=graph.neighbours, observe="progress", dilemma_strength=0.3)
    num_agents, width = graph.neighbours.shape
    assert len(set(graph_families.degrees(graph))) > 2 and env.num_codes is None
    actions = np.random.default_rng(0).integers(0, 2, num_agents)
    _, timestep = jax.jit(env.step)(env.reset(jax.random.key(0))[0], jnp.asarray(actions))
    paid = graph_payoffs(actions, graph.neighbours, graph.present, payoff_of(env), mean=True)
    np.testing.assert_allclose(timestep.reward, paid, atol=1e-6)
    assert float(timestep.extras["metrics"]["cooperation_rate"]) == pytest.approx((actions == 0).mean())
    view = np.asarray(timestep.observation.agents_view)
    assert view.shape == (num_agents, *env.observation_shape) == (num_agents, 2 * width + 2)
    np.testing.assert_array_equal(view[:, :width], np.where(graph.present, actions[graph.neighbours], 0))
    np.testing.assert_array_equal(view[:, width], actions)
    np.testing.assert_array_equal(view[:, width + 1 : -1], graph.present)


def test_a_regular_graph_is_a_case_of_an_irregular_one() -> None:
    table = random_regular(20, 3, 0)
    regular, irregular = (NetworkDilemma(topology=name, neighbors=table) for name in ("given", "irregular"))
    actions = jax.random.bernoulli(jax.random.key(1), 0.5, (20,)).astype(jnp.int32)
    state, _ = regular.reset(jax.random.key(0))
    one, other = (env.step(state, actions)[1] for env in (regular, irregular))
    np.testing.assert_allclose(one.reward, other.reward, atol=1e-6)
    np.testing.assert_array_equal(one.observation.agents_view, other.observation.agents_view[:, :4])


def test_an_irregular_graph_conforms() -> None:
    assert marl_bench.check_environment(NetworkDilemma(topology="irregular", neighbors=SPARSE.neighbours)) == []


def test_each_seed_has_its_own_graph() -> None:
    env = NetworkDilemma(topology="random", side=6)
    assert not np.array_equal(env.prepare(0).neighbors, env.prepare(1).neighbors)
    np.testing.assert_array_equal(env.prepare(3).neighbors, env.prepare(3).neighbors)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_conforms(topology: str) -> None:
    env = NetworkDilemma(side=6, topology=topology, observe="both").prepare(0)
    assert marl_bench.check_environment(env) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"side": 2}, "side=2: must be between 3 and 4096"),
        ({"side": 2.5}, "must be an integer"),
        ({"dilemma_strength": -0.1}, "dilemma_strength=-0.1: must be >= 0"),
        ({"dilemma_strength": float("nan")}, "dilemma_strength=nan"),
        ({"topology": "latice"}, "did you mean 'lattice'"),
        ({"observe": "all"}, "observe='all': must be one of"),
        ({"sucker": 0.0, "temptation": 1.0}, "pass dilemma_strength=None"),
        ({"dilemma_strength": None}, "needs both sucker and temptation"),
        ({"topology": "given"}, "needs neighbors"),
        ({"topology": "irregular"}, "topology='irregular' needs neighbors"),
        ({"topology": "given", "neighbors": graph_families.ring(20, 8).neighbours}, "use topology='irregular'"),
        ({"topology": "given", "neighbors": SPARSE.neighbours}, "which is itself"),
        ({"topology": "given", "neighbors": SPARSE}, "take graph.neighbours of a graph"),
        ({"topology": "given", "neighbors": [[1], [0]]}, "must be an array"),
        (
            {"topology": "given", "neighbors": jnp.asarray(graph_families.ring(20, 8).neighbours)},
            "use topology='irregular'",
        ),
        ({"topology": "given", "neighbors": jnp.full((4, 2), 99)}, "node 0 lists"),
        ({"neighbors": random_regular(20, 3, 0)}, "use 'given' or 'irregular'"),
        ({"topology": "irregular", "neighbors": np.array([[1, 1], [0, 1]])}, "node 0 lists node 1, more than once"),
        ({"topology": "irregular", "neighbors": np.array([[1], [1]])}, "node 0 lists node 1, which does not list it"),
        ({"reward": "high"}, "must be a number"),
    ],
)
def test_bad_fields_are_named(fields: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        NetworkDilemma(**fields)


def test_picture() -> None:
    env = NetworkDilemma(side=5)
    picture = env.render(env.reset(jax.random.key(0))[0])
    assert (picture.shape, picture.dtype, len(np.unique(picture.reshape(-1, 3), axis=0))) == ((40, 40, 3), np.uint8, 2)


def test_scripted_policies_earn_the_payoffs_of_the_diagonal():
    env = marl_bench.make("network_dilemma", side=3)
    state, timestep = env.reset(jax.random.key(0))
    for name, payoff in (("cooperate", 1.0), ("defect", 0.0)):
        actions = env.scripted_policies()[name](state, timestep.observation, jax.random.key(1))
        assert (env.step(state, actions)[1].reward == payoff).all()
