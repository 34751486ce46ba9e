"""Graph families against their counts, and evolution without learning against published trajectories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench.envs import graph_families as families
from marl_bench.envs.closed_forms import evolution
from marl_bench.envs.network_dilemma import NetworkDilemma

KEY = jax.random.key(0)


def edges(graph):
    """Number of edges, after checking that the table is a simple undirected graph."""
    links = {(i, int(j)) for i, row in enumerate(graph.neighbours) for j in row[graph.present[i]]}
    assert len(links) == graph.present.sum() and all((j, i) in links and i != j for i, j in links)
    empty = ~graph.present
    own = np.arange(len(graph.neighbours))[:, None]
    assert (graph.neighbours[empty] == np.broadcast_to(own, empty.shape)[empty]).all()
    return len(links) // 2


# --- graphs --------------------------------------------------------------------------------------


def test_regular_families_have_their_edges():
    assert edges(families.moore_torus(5)) == 4 * 25
    assert edges(families.ring(12, 4)) == 24
    assert edges(families.complete(7)) == 21
    assert (families.degrees(families.moore_torus(4)) == 8).all()
    np.testing.assert_array_equal(np.sort(families.moore_torus(4).neighbours[5]), [0, 1, 2, 4, 6, 8, 9, 10])


@pytest.mark.parametrize("degree", [4, 6, 8])
def test_clustering_of_the_ring(degree):
    expected = 3 * (degree - 2) / (4 * (degree - 1))
    assert families.clustering(families.ring(60, degree)) == pytest.approx(expected)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.3, 1.0])
def test_small_worlds_keep_their_edges_and_lose_their_clustering(probability):
    graph = families.small_world(400, 6, probability, seed=3)
    assert edges(graph) == 400 * 3 and families.is_connected(graph)
    # C(p) is about C(0) (1 - p)^3 for large graphs; C(0) = 0.6.
    assert families.clustering(graph) == pytest.approx(0.6 * (1 - probability) ** 3, abs=0.04)


def test_erdos_renyi_degrees_are_binomial():
    graph = families.erdos_renyi(400, 0.02, seed=1)
    mean, variance = 399 * 0.02, 399 * 0.02 * 0.98
    found = families.degrees(graph)
    # Every edge counts twice, so the mean has twice the variance of 400 independent degrees.
    assert found.mean() == pytest.approx(mean, abs=4 * (2 * variance / 400) ** 0.5)
    assert found.var() == pytest.approx(variance, rel=0.4)
    edges(graph)


def test_scale_free_degrees_follow_their_law():
    nodes, links = 3000, 2
    graph = families.scale_free(nodes, links, seed=0)
    assert edges(graph) == links * (nodes - links)
    found = families.degrees(graph)
    assert (found[links + 1 :] >= links).all()
    for degree in (2, 3, 4, 6):
        expected = 2 * links * (links + 1) / (degree * (degree + 1) * (degree + 2))
        error = (expected / nodes) ** 0.5
        assert (found == degree).mean() == pytest.approx(expected, abs=5 * error + 0.005)
    assert found.max() > 8 * links


def test_isolated_nodes_are_no_neighbours_of_themselves():
    graph = families.erdos_renyi(30, 0.02, seed=5)
    lonely = families.degrees(graph) == 0
    assert lonely.any() and not families.is_connected(graph)
    payoffs = evolution.graph_payoffs(np.ones(30, int), *graph, [[1, 0], [2, 1]], mean=True)
    np.testing.assert_array_equal(np.asarray(payoffs)[lonely], 0)
    np.testing.assert_array_equal(np.asarray(payoffs)[~lonely], 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: families.ring(10, 3), "degree=3: must be even"),
        (lambda: families.ring(4, 4), "num_nodes=4: must be >= 5"),
        (lambda: families.small_world(10, 2, 1.5), "probability=1.5"),
        (lambda: families.scale_free(2, 2), "num_nodes=2: must be >= 3"),
        (lambda: families.moore_torus(2), "side=2"),
    ],
)
def test_bad_graphs_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_environment_plays_on_rings():
    env = NetworkDilemma(topology="given", neighbors=families.ring(20, 6).neighbours)
    assert (env.num_agents, env.degree) == (20, 6)
    state, _ = env.reset(KEY)
    actions = jnp.zeros(20, jnp.int32).at[3].set(1)
    reward = np.asarray(env.step(state, actions)[1].reward)
    expected = evolution.graph_payoffs(actions, *families.ring(20, 6), [[1, -0.25], [1.25, 0]], mean=True)
    np.testing.assert_allclose(reward, expected, rtol=1e-6)


def test_weak_dilemma_preset():
    env = marl_bench.make("weak_prisoners_dilemma", temptation=1.6)
    assert env.payoffs() == (1.0, 0.0, 1.6, 0.0)


# --- payoffs -------------------------------------------------------------------------------------


def test_total_payoff_counts_the_edges():
    graph = families.scale_free(60, 2, seed=1)
    strategies = np.random.default_rng(0).integers(0, 2, 60)
    (reward, sucker), (temptation, punishment) = matrix = [[3.0, -1.0], [4.0, 0.5]]
    kinds = [0, 0, 0]
    for i, row in enumerate(graph.neighbours):
        for j in row[graph.present[i]]:
            kinds[strategies[i] + strategies[j]] += i < j
    expected = 2 * reward * kinds[0] + (sucker + temptation) * kinds[1] + 2 * punishment * kinds[2]
    assert float(evolution.graph_payoffs(strategies, *graph, matrix).sum()) == pytest.approx(expected)


def test_relabelling_the_nodes_commutes_with_a_generation():
    graph = families.small_world(40, 4, 0.2, seed=2)
    rng = np.random.default_rng(1)
    strategies, order = rng.integers(0, 2, 40), rng.permutation(40)
    place = np.argsort(order)
    relabelled = families.Graph(place[graph.neighbours[order]].astype(np.int32), graph.present[order])
    payoffs = evolution.graph_payoffs(strategies, *graph, [[1, 0], [1.3, 0]])
    moved = evolution.graph_payoffs(strategies[order], *relabelled, [[1, 0], [1.3, 0]])
    np.testing.assert_array_equal(np.asarray(payoffs)[order], moved)


# --- rules of imitation ----------------------------------------------------------------------------


def nowak_may(temptations, strategies, side, generations):
    """[B, generations + 1] numbers of defectors for several temptations."""
    graph = families.moore_torus(side)

    def run(temptation):
        matrix = jnp.stack([jnp.array([1.0, 0.0]), jnp.stack([temptation, 0.0])])

        def advance(strategies, _):
            payoffs = evolution.graph_payoffs(strategies, *graph, matrix, self_interaction=True)
            return evolution.imitate_best(strategies, payoffs, *graph), jnp.sum(strategies)

        last, counts = jax.lax.scan(advance, jnp.asarray(strategies), None, length=generations)
        return jnp.append(counts, jnp.sum(last))

    return np.asarray(jax.jit(jax.vmap(run))(jnp.asarray(temptations, jnp.float32)))


def test_one_defector_grows_as_nowak_and_may_saw():
    side = 101
    strategies = np.zeros((side, side), np.int32)
    strategies[side // 2, side // 2] = 1
    found = nowak_may([1.85, 1.75, 1.55], strategies.reshape(-1), side, 12)
    np.testing.assert_array_equal(found[0], [1, 9, 25, 41, 81, 81, 109, 185, 289, 257, 253, 297, 325])
    np.testing.assert_array_equal(found[1], [1] + [9] * 12)
    np.testing.assert_array_equal(found[2], [1, 9, 5] * 4 + [1])


@pytest.mark.slow
def test_long_run_share_of_cooperators():
    side = 200
    strategies = (np.random.default_rng(0).random(side * side) < 0.1).astype(np.int32)
    counts = nowak_may([1.9], strategies, side, 400)[0]
    share = 1 - counts[200:].mean() / side**2
    # 12 ln 2 - 8 = 0.3178
    assert share == pytest.approx(12 * np.log(2) - 8, abs=0.01)


def test_fermi_copies_with_its_probability_and_follows_the_replicator_on_a_complete_graph():
    graph = families.complete(60)
    strategies = (np.arange(60) >= 20).astype(np.int32)
    keys = jax.random.split(KEY, 400)

    def change(matrix):
        payoffs = evolution.graph_payoffs(strategies, *graph, matrix, mean=True)
        after = jax.jit(jax.vmap(lambda key: evolution.fermi(key, strategies, payoffs, *graph, 0.5)))(keys)
        return np.asarray((after == 0).mean(axis=1)) - 1 / 3, np.asarray(payoffs)

    found, payoffs = change([[1.0, -0.25], [1.25, 0.0]])
    gap = payoffs[0] - payoffs[-1]
    # x (1 - x) tanh(gap / 2 kappa), with 20 * 40 / (60 * 59) for two different agents that meet.
    expected = 20 * 40 / (60 * 59) * np.tanh(gap / (2 * 0.5))
    assert found.mean() == pytest.approx(expected, abs=4 * float(found.std()) / 20)
    assert expected < 0
    harmony, _ = change([[4.0, 3.0], [2.0, 1.0]])
    assert harmony.mean() > 0


def test_proportional_imitation_never_copies_the_poorer():
    graph = families.ring(4, 2)
    strategies, payoffs = np.array([0, 1, 0, 1]), np.array([3.0, 1.0, 3.0, 1.0])
    keys = jax.random.split(KEY, 4000)
    rule = jax.jit(
        jax.vmap(lambda key: evolution.proportional_imitation(key, strategies, payoffs, *graph, largest_gap=8.0))
    )
    after = np.asarray(rule(keys))
    assert (after[:, [0, 2]] == 0).all()
    assert (after[:, 1] == 0).mean() == pytest.approx(0.25, abs=4 * (0.1875 / 4000) ** 0.5)


def test_death_birth_draws_the_parent_by_fitness():
    graph = families.complete(3)
    strategies, payoffs = np.array([0, 1, 1]), np.array([2.0, 0.0, 1.0])
    keys = jax.random.split(KEY, 6000)
    after = np.asarray(
        jax.jit(jax.vmap(lambda key: evolution.death_birth(key, strategies, payoffs, *graph, 0.5)))(keys)
    )
    # Fitness 1.5, 0.5, 1. Node 1 dies with probability 1/3 and takes after node 0 with 1.5 / 2.5; node 2 with 1.5 / 2.
    error = 4 * (0.25 / 6000) ** 0.5
    assert (after[:, 1] == 0).mean() == pytest.approx(0.6 / 3, abs=error)
    assert (after[:, 2] == 0).mean() == pytest.approx(0.75 / 3, abs=error)
    assert (after[:, 0] == 1).mean() == pytest.approx(1 / 3, abs=error)
    assert ((after != strategies).sum(axis=1) <= 1).all()
