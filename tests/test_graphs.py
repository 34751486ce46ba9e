"""Neighbour tables: structure, laws, seeds and errors."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from marl_bench.envs import graphs


def edge_set(table):
    return {(node, int(other)) for node, row in enumerate(table) for other in row if node < other}


def cross_edges(table, module_of):
    return (module_of[table] != module_of[:, None]).sum(axis=1)


def recover_cliques(table):
    """Module index of each node when every module is a K4: three neighbours that also list each other."""
    module_of = np.full(len(table), -1)
    for node, row in enumerate(table):
        if module_of[node] < 0:
            trios = [trio for trio in combinations(row, 3) if all(b in table[a] for a, b in combinations(trio, 2))]
            assert len(trios) == 1
            module_of[[node, *trios[0]]] = module_of.max() + 1
    return module_of


def test_torus_slots_are_up_right_down_left():
    #  0  1  2
    #  3  4  5
    #  6  7  8
    table = graphs.torus(3)
    assert table.dtype == np.int32
    assert table[4].tolist() == [1, 5, 7, 3]
    assert table[0].tolist() == [6, 1, 3, 2]
    assert table[8].tolist() == [5, 6, 2, 7]
    assert graphs.validate_neighbours(graphs.torus(30)).shape == (900, 4)
    assert graphs.is_connected(graphs.torus(30))


def test_rewired_torus_keeps_most_edges_and_stays_connected():
    torus_edges = edge_set(graphs.torus(30))
    assert len(torus_edges) == 1800
    for seed in range(5):
        table = graphs.validate_neighbours(graphs.rewired_torus(30, seed=seed))
        lost = len(torus_edges - edge_set(table))
        # 360 draws out of 1800 edges touch 1800 (1 - exp(-360 / 1800)) = 326 of them on average.
        assert 296 < lost <= 356
        assert graphs.is_connected(table)
        assert (np.diff(table, axis=1) > 0).all()


def test_rewired_torus_does_the_stated_number_of_swaps():
    torus_edges = edge_set(graphs.torus(10))
    assert edge_set(graphs.rewired_torus(10, 0.0, seed=1)) == torus_edges
    one_swap = edge_set(graphs.rewired_torus(10, 1 / 200, seed=1))
    assert len(torus_edges - one_swap) == len(one_swap - torus_edges) == 2


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: graphs.rewired_torus(8, 0.2, seed),
        lambda seed: graphs.random_regular(60, 4, seed),
        lambda seed: graphs.random_regular(60, 8, seed),
        lambda seed: graphs.modular_regular(60, 6, seed),
    ],
    ids=["rewired", "random", "random by swaps", "modular"],
)
def test_seed_decides_the_graph(draw):
    assert np.array_equal(draw(7), draw(7))
    drawn = [frozenset(edge_set(draw(seed))) for seed in range(6)]
    assert len(set(drawn)) == 6


@settings(max_examples=60, deadline=None)
@given(num_nodes=st.integers(2, 80), degree=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_random_regular_is_simple_regular_or_refused(num_nodes, degree, seed):
    if degree >= num_nodes or num_nodes * degree % 2:
        with pytest.raises(ValueError, match="num_nodes"):
            graphs.random_regular(num_nodes, degree, seed)
        return
    table = graphs.random_regular(num_nodes, degree, seed)
    assert table.shape == (num_nodes, degree) and table.dtype == np.int32
    graphs.validate_neighbours(table)
    assert (np.diff(table, axis=1) > 0).all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: graphs.random_regular(6, 3, seed),
        lambda seed: graphs._table_of(graphs._mixed_circulant(6, 3, np.random.default_rng(seed)), 6, 3),
        lambda seed: graphs._table_of(cast(Any, graphs._simple_pairing(6, 3, np.random.default_rng(seed))), 6, 3),
    ],
    ids=["public", "swap chain", "pairing"],
)
def test_random_regular_is_uniform_over_the_70_cubic_graphs_on_6_nodes(draw):
    counts = Counter(frozenset(edge_set(draw(seed))) for seed in range(2800))
    assert len(counts) == 70
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_random_regular_at_paper_size_loses_the_lattice():
    table = graphs.random_regular(900, 4, 195)
    graphs.validate_neighbours(table)
    shared = edge_set(table) & edge_set(graphs.torus(30))
    # Expected overlap of a uniform graph: 1800 * 4 / 899 = 8 edges.
    assert len(shared) < 30


def test_modular_graph_of_cliques_has_one_cross_edge_per_node():
    for seed in range(5):
        table = graphs.validate_neighbours(graphs.modular_regular(36, 9, seed))
        module_of = recover_cliques(table)
        assert np.bincount(module_of).tolist() == [4] * 9
        assert (cross_edges(table, module_of) == 1).all()


def test_modular_graph_at_paper_size(monkeypatch):
    drawn = {}
    cross_matching = graphs._cross_matching

    def spy(module_of, rng):
        drawn["module_of"] = module_of
        return cross_matching(module_of, rng)

    monkeypatch.setattr(graphs, "_cross_matching", spy)
    table = graphs.validate_neighbours(graphs.modular_regular(900, 9, 195))
    module_of = drawn["module_of"]
    assert np.bincount(module_of).tolist() == [100] * 9
    assert (cross_edges(table, module_of) == 1).all()
    # A random partition is not the block partition of node ids.
    assert (module_of == np.arange(900) // 100).mean() < 0.3


def test_cross_matching_is_uniform_over_the_8_matchings_of_the_octahedron():
    module_of = np.array([0, 0, 1, 1, 2, 2])
    counts = Counter(
        frozenset(frozenset(pair) for pair in graphs._cross_matching(module_of, np.random.default_rng(seed)).tolist())
        for seed in range(1600)
    )
    assert len(counts) == 8
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@settings(max_examples=40, deadline=None)
@given(modules=st.integers(2, 8), half_size=st.integers(2, 10), seed=st.integers(0, 2**31))
def test_modular_graph_never_fails(modules, half_size, seed):
    table = graphs.modular_regular(2 * half_size * modules, modules, seed)
    graphs.validate_neighbours(table)
    assert table.shape == (2 * half_size * modules, 4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: graphs.torus(2), ValueError, "side=2"),
        (lambda: graphs.torus(cast(int, 3.0)), TypeError, "side=3.0"),
        (lambda: graphs.rewired_torus(5, -0.1), ValueError, "swaps_fraction=-0.1"),
        (lambda: graphs.rewired_torus(5, seed=-1), ValueError, "seed=-1"),
        (lambda: graphs.random_regular(7, 3), ValueError, "must be even"),
        (lambda: graphs.random_regular(4, 4), ValueError, "num_nodes=4: must be >= 5"),
        (lambda: graphs.random_regular(4, 0), ValueError, "degree=0"),
        (lambda: graphs.random_regular(True, 1), TypeError, "num_nodes=True"),
        (lambda: graphs.modular_regular(901, 9), ValueError, "multiple of modules=9"),
        (lambda: graphs.modular_regular(27, 9), ValueError, "a module has 3 nodes"),
        (lambda: graphs.modular_regular(45, 9), ValueError, "a module has 5 nodes"),
        (lambda: graphs.modular_regular(36, 1), ValueError, "modules=1"),
    ],
)
def test_impossible_graphs_are_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_too_many_failing_swaps_are_reported(monkeypatch):
    monkeypatch.setattr(graphs, "_MAX_ATTEMPTS_PER_SWAP", 1)
    with pytest.raises(ValueError, match=r"swaps_fraction=1\.0: only \d+ of 18 swaps"):
        graphs.rewired_torus(3, 1.0)


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        ([[1, 2], [0, 2], [0]], ValueError, "same number of neighbours"),
        ([0, 1], ValueError, "shape"),
        ([[1.0], [0.0]], TypeError, "integer"),
        ([[1, 2], [0, 2], [0, 3]], ValueError, "node 2 lists node 3, but nodes run from 0 to 2"),
        ([[1, -1], [0, 2], [0, 1]], ValueError, "node 0 lists node -1"),
        ([[1, 2], [0, 1], [0, 1]], ValueError, "node 1 lists node 1, which is itself"),
        ([[1, 2], [2, 2], [0, 1]], ValueError, "node 1 lists node 2, more than once"),
        ([[1, 2], [2, 3], [3, 0], [0, 1]], ValueError, "node 0 lists node 1, which does not list it"),
    ],
)
def test_bad_tables_are_refused_naming_the_first_node(table, error, words):
    with pytest.raises(error, match=words):
        graphs.validate_neighbours(table)


def test_validate_accepts_lists_and_returns_int32():
    table = graphs.validate_neighbours([[2, 1], [0, 2], [1, 0]])
    assert table.dtype == np.int32 and table.tolist() == [[2, 1], [0, 2], [1, 0]]


def test_connectivity():
    two_triangles = np.array([[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]])
    assert not graphs.is_connected(two_triangles)
    assert graphs.is_connected(np.array([[1, 2], [0, 2], [0, 1]]))
