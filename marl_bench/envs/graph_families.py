"""More interaction graphs, regular or not, as padded neighbour tables, drawn on the host from an integer seed.

`graphs` has the four regular graphs of the network dilemma. Here a graph is a pair (neighbours [N, k_max] int32, present
[N, k_max] bool): row i lists the neighbours of node i first; empty slots repeat node i and are not present.

Sources: Watts & Strogatz 1998 (small world); Barabási & Albert 1999 (scale-free); Erdős & Rényi 1959.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAX_REDRAWS = 100


class Graph(NamedTuple):
    """A simple undirected graph.

    Attributes:
      neighbours: [N, k_max] int32 node ids; empty slots hold the node's own id.
      present: [N, k_max] bool, which slots are neighbours.
    """

    neighbours: NDArray[np.int32]
    present: NDArray[np.bool_]


def moore_torus(side: int) -> Graph:
    """Periodic square lattice with the eight nearest cells as neighbours; `side` >= 3. Node id = row * side + column."""
    _check("side", side, 3)
    node = np.arange(side * side, dtype=np.int32).reshape(side, side)
    shifts = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
    table = np.stack([np.roll(node, shift, (0, 1)).reshape(-1) for shift in shifts], axis=1)
    return Graph(table, np.ones(table.shape, bool))


def ring(num_nodes: int, degree: int) -> Graph:
    """Ring in which every node is joined to degree / 2 nodes on each side; `degree` even and below `num_nodes`."""
    _check_ring(num_nodes, degree)
    return _from_edges(_ring_edges(num_nodes, degree), num_nodes)


def complete(num_nodes: int) -> Graph:
    """Every node joined to every other; `num_nodes` >= 2."""
    _check("num_nodes", num_nodes, 2)
    return _from_edges(np.stack(np.triu_indices(num_nodes, 1), axis=1), num_nodes)


def small_world(num_nodes: int, degree: int, probability: float, seed: int = 0) -> Graph:
    """Watts-Strogatz graph, connected: the far end of each ring edge is moved with `probability` to a uniform node.

    Edges (i, i + j) are visited for j = 1 ... degree / 2 and i in order; loops and repeated edges are avoided. A disconnected
    outcome is drawn again.

    Raises:
      ValueError: when an argument is out of range, or every redraw is disconnected.
    """
    _check_ring(num_nodes, degree)
    _check_probability(probability)
    rng = np.random.default_rng(seed)
    for _ in range(_MAX_REDRAWS):
        linked = [set() for _ in range(num_nodes)]
        for i, j in _ring_edges(num_nodes, degree):
            linked[i].add(int(j))
            linked[j].add(int(i))
        for i, j in _ring_edges(num_nodes, degree):
            if rng.random() >= probability or len(linked[i]) >= num_nodes - 1:
                continue
            new = int(rng.integers(num_nodes))
            while new == i or new in linked[i]:
                new = int(rng.integers(num_nodes))
            linked[i].remove(int(j))
            linked[j].remove(int(i))
            linked[i].add(new)
            linked[new].add(int(i))
        edges = np.array([(i, j) for i, others in enumerate(linked) for j in sorted(others) if i < j])
        graph = _from_edges(edges, num_nodes)
        if is_connected(graph):
            return graph
    raise ValueError(f"small_world: {_MAX_REDRAWS} graphs were disconnected; use a larger degree or another seed")


def erdos_renyi(num_nodes: int, probability: float, seed: int = 0) -> Graph:
    """Every pair of nodes is joined with `probability`, independently; nodes may be isolated."""
    _check("num_nodes", num_nodes, 2)
    _check_probability(probability)
    first, second = np.triu_indices(num_nodes, 1)
    joined = np.random.default_rng(seed).random(len(first)) < probability
    return _from_edges(np.stack([first[joined], second[joined]], axis=1), num_nodes)


def scale_free(num_nodes: int, links: int, seed: int = 0) -> Graph:
    """Barabási-Albert graph: a star on links + 1 nodes, then every new node joins `links` distinct ones by degree.

    It has links (num_nodes - links) edges. The largest degree grows like the root of `num_nodes`, and so does the table.
    """
    _check("links", links, 1)
    _check("num_nodes", num_nodes, links + 1)
    rng = np.random.default_rng(seed)
    edges = [(0, node) for node in range(1, links + 1)]
    # Every node stands here once for each of its edges, so a uniform entry is a node drawn by degree.
    ends = [end for edge in edges for end in edge]
    for node in range(links + 1, num_nodes):
        chosen: set[int] = set()
        while len(chosen) < links:
            chosen.add(ends[int(rng.integers(len(ends)))])
        for other in sorted(chosen):
            edges.append((other, node))
            ends += [other, node]
    return _from_edges(np.array(edges), num_nodes)


def degrees(graph: Graph) -> NDArray[np.int64]:
    """[N] number of neighbours of each node."""
    return graph.present.sum(axis=1)


def clustering(graph: Graph) -> float:
    """Mean over nodes of the fraction of pairs of neighbours that are joined (0 for fewer than two neighbours)."""
    linked = [set(row[there].tolist()) for row, there in zip(graph.neighbours, graph.present, strict=True)]
    found = []
    for others in linked:
        pairs = len(others) * (len(others) - 1)
        found.append(sum(len(linked[other] & others) for other in others) / pairs if pairs else 0.0)
    return float(np.mean(found))


def is_connected(graph: Graph) -> bool:
    """Whether every node can be reached from node 0."""
    seen = np.zeros(len(graph.neighbours), bool)
    seen[0] = True
    frontier = np.array([0])
    while frontier.size:
        # Empty slots hold the node itself, which is seen already.
        reached = np.unique(graph.neighbours[frontier])
        frontier = reached[~seen[reached]]
        seen[frontier] = True
    return bool(seen.all())


def _ring_edges(num_nodes: int, degree: int) -> NDArray[np.int64]:
    """[N degree / 2, 2] edges (i, i + j), ordered by j, then i."""
    node = np.arange(num_nodes)
    return np.concatenate([np.stack([node, (node + j) % num_nodes], axis=1) for j in range(1, degree // 2 + 1)])


def _from_edges(edges: NDArray[Any], num_nodes: int) -> Graph:
    """Padded table of distinct edges [E, 2]; neighbours in order of their id."""
    both = np.concatenate([edges, edges[:, ::-1]]).reshape(-1, 2)
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    count = np.bincount(both[:, 0], minlength=num_nodes)
    width = max(int(count.max()), 1)
    present = np.arange(width) < count[:, None]
    neighbours = np.repeat(np.arange(num_nodes, dtype=np.int32)[:, None], width, axis=1)
    neighbours[present] = both[:, 1]
    return Graph(neighbours, present)


def _check(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}={value!r}: must be an integer")
    if value < low:
        raise ValueError(f"{name}={value!r}: must be >= {low}")


def _check_ring(num_nodes: int, degree: int) -> None:
    _check("degree", degree, 2)
    _check("num_nodes", num_nodes, degree + 1)
    if degree % 2:
        raise ValueError(f"degree={degree}: must be even")


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability!r}: must be between 0 and 1")
