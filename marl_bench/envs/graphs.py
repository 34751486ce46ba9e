"""Regular interaction graphs as neighbour tables, drawn on the host from an integer seed.

Every function returns an int32 table [N, degree]: row i lists the neighbours of node i. The graphs are simple,
undirected and regular, so an environment can gather its neighbours without masks. The lattice keeps its directions
(up, right, down, left); every other table is sorted by node id, so its slots carry no direction.

Sources: Bollobas 1980 (configuration model: pairing stubs at random and rejecting loops and repeated edges is uniform
over simple regular graphs); Maslov & Sneppen 2002 (degree-preserving double-edge swaps); Weng & Lee 2026,
arXiv:2601.05509, for the rewired and modular graphs. Irregular graphs are in `graph_families`; weighted or directed ones are not covered.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Below this chance of accepting a pairing, rejection is hopeless and the switch chain is used at once.
_MIN_ACCEPTANCE = 1e-3
_MAX_PAIRINGS = 4000
# A batch of pairings holds at most this many stubs, which bounds the memory of one try to a few megabytes.
_MAX_BATCH_STUBS = 2**20
# Attempts per edge of a switch chain; random transpositions mix after about (log E) / 2 of them.
_MIXING_ATTEMPTS = 50
_MAX_ATTEMPTS_PER_SWAP = 100
_MAX_REDRAWS = 100


def torus(side: int) -> NDArray[np.int32]:
    """Lay out the periodic square lattice with the von Neumann neighbourhood.

    Node id = row * side + column; slots 0 up, 1 right, 2 down, 3 left.

    Args:
      side: L >= 3, nodes along one edge.
    Returns:
      neighbours: [side * side, 4] int32.
    Raises:
      TypeError: when `side` is not an integer.
      ValueError: when `side` is below 3 (a neighbour would be listed twice).
    """
    _check_integer("side", side, 3)
    node = np.arange(side * side, dtype=np.int32).reshape(side, side)
    slots = [np.roll(node, 1, 0), np.roll(node, -1, 1), np.roll(node, -1, 0), np.roll(node, 1, 1)]
    return np.stack([slot.reshape(-1) for slot in slots], axis=1)


def rewired_torus(side: int, swaps_fraction: float = 0.1, seed: int = 0) -> NDArray[np.int32]:
    """Rewire the torus by degree-preserving double-edge swaps, keeping it connected.

    round(swaps_fraction * E) successful swaps on the E = 2 * side**2 edges: two distinct edges drawn uniformly, four
    distinct endpoints, either reconnection with probability 1/2, refused if an edge would be repeated (Maslov &
    Sneppen 2002). A disconnected outcome is drawn again from the same generator.

    Args:
      side: L >= 3, nodes along one edge.
      swaps_fraction: successful swaps per edge, >= 0; 0 gives the sorted torus.
      seed: integer seed of the generator.
    Returns:
      neighbours: [side * side, 4] int32, rows sorted.
    Raises:
      TypeError: when `side` or `seed` is not an integer.
      ValueError: when an argument is out of range, when the swaps do not succeed within 100 attempts each, or when
        every redraw is disconnected.
    """
    edges = _edges_of(torus(side))
    if not np.isfinite(swaps_fraction) or swaps_fraction < 0:
        raise ValueError(f"swaps_fraction={swaps_fraction!r}: must be a finite number >= 0")
    rng = _generator(seed)
    wanted = round(float(swaps_fraction) * len(edges))
    for _ in range(_MAX_REDRAWS):
        rewired, done = _swap_edges(edges, rng, _MAX_ATTEMPTS_PER_SWAP * wanted, wanted)
        if done < wanted:
            raise ValueError(
                f"swaps_fraction={swaps_fraction!r}: only {done} of {wanted} swaps succeeded in "
                f"{_MAX_ATTEMPTS_PER_SWAP * wanted} attempts on side={side}; use a larger side"
            )
        table = _table_of(rewired, side * side, 4)
        if is_connected(table):
            return table
    raise ValueError(f"side={side}, seed={seed}: {_MAX_REDRAWS} rewired graphs were disconnected; use another seed")


def random_regular(num_nodes: int, degree: int = 4, seed: int = 0) -> NDArray[np.int32]:
    """Draw a simple regular graph, uniformly over all labelled ones; it may be disconnected.

    The configuration model with rejection of the whole pairing (Bollobas 1980) has the exact uniform law; pairings
    are drawn and tested in batches because a 4-regular one is simple with probability of about 2 %. A graph denser
    than half is the complement of a sparse one. Where rejection is hopeless (degree above 5) or has failed 4,000
    times, a double-edge-swap chain of 50 attempts per edge from a randomly labelled circulant graph takes its place:
    it cannot fail, and its stationary law is the same uniform one.

    Args:
      num_nodes: N > degree; N * degree must be even.
      degree: neighbours of each node, >= 1.
      seed: integer seed of the generator.
    Returns:
      neighbours: [num_nodes, degree] int32, rows sorted.
    Raises:
      TypeError: when an argument is not an integer.
      ValueError: when no such graph exists, or `seed` is negative.
    """
    _check_integer("degree", degree, 1)
    _check_integer("num_nodes", num_nodes, degree + 1)
    if num_nodes * degree % 2:
        raise ValueError(f"num_nodes={num_nodes}, degree={degree}: num_nodes * degree must be even; change one of them")
    return _regular_table(num_nodes, degree, _generator(seed))


def modular_regular(num_nodes: int, modules: int = 9, seed: int = 0) -> NDArray[np.int32]:
    """Draw a 4-regular graph of equal modules: three edges inside the module, one to another module.

    Nodes are split into modules at random; inside each a uniform simple 3-regular graph; one further edge per node
    from a random perfect matching that joins different modules only (Weng & Lee 2026). Rejecting matchings with an
    inner pair would never end, so inner pairs are first swapped away (always possible) and the matching is then
    mixed by 50 attempted swaps per pair, a chain that is uniform over the allowed matchings.

    Args:
      num_nodes: N, a multiple of `modules`; N / modules must be even and at least 4.
      modules: number of modules, >= 2.
      seed: integer seed of the generator.
    Returns:
      neighbours: [num_nodes, 4] int32, rows sorted.
    Raises:
      TypeError: when an argument is not an integer.
      ValueError: when no such graph exists, or `seed` is negative.
    """
    _check_integer("modules", modules, 2)
    _check_integer("num_nodes", num_nodes, 1)
    size, rest = divmod(num_nodes, modules)
    if rest:
        raise ValueError(f"num_nodes={num_nodes}: must be a multiple of modules={modules}")
    if size < 4 or size % 2:
        raise ValueError(
            f"num_nodes={num_nodes}, modules={modules}: a module has {size} nodes, but a 3-regular graph "
            "needs an even number of at least 4"
        )
    rng = _generator(seed)
    members = rng.permutation(num_nodes).reshape(modules, size)
    inner = [nodes[_edges_of(_regular_table(size, 3, rng))] for nodes in members]
    module_of = np.empty(num_nodes, np.int64)
    module_of[members] = np.arange(modules)[:, None]
    return _table_of(np.concatenate([*inner, _cross_matching(module_of, rng)]), num_nodes, 4)


def validate_neighbours(table: Any, padded: bool = False) -> NDArray[np.int32]:
    """Check that a neighbour table is a simple, undirected graph, and regular unless it is padded.

    Args:
      table: [N, degree] integers; row i lists the neighbours of node i, in any order.
      padded: whether entries i in row i are empty slots (as in `graph_families.Graph`), so that degrees may differ.
    Returns:
      neighbours: the table as a contiguous int32 array.
    Raises:
      TypeError: when the entries are not integers.
      ValueError: when rows differ in length, or naming the first node with an unknown, own, repeated or one-sided
        neighbour.
    """
    try:
        host = np.asarray(table)
    except ValueError as error:
        raise ValueError("neighbours: every node must list the same number of neighbours") from error
    if host.ndim != 2 or host.size == 0:
        raise ValueError(f"neighbours: shape {host.shape}, must be [num_nodes, degree] with both at least 1")
    if not np.issubdtype(host.dtype, np.integer):
        raise TypeError(f"neighbours: dtype {host.dtype}, must be integer node ids")
    num_nodes, degree = host.shape
    node = np.repeat(np.arange(num_nodes), degree)
    other = host.reshape(-1).astype(np.int64)
    _refuse((other < 0) | (other >= num_nodes), node, other, f"but nodes run from 0 to {num_nodes - 1}")
    if not padded:
        _refuse(other == node, node, other, "which is itself")
    ordered = np.sort(host, axis=1).astype(np.int64)
    repeated = np.zeros(host.shape, bool)
    repeated[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != np.arange(num_nodes)[:, None])
    _refuse(repeated.reshape(-1), node, ordered.reshape(-1), "more than once")
    one_sided = ~np.isin(node * num_nodes + other, other * num_nodes + node)
    _refuse(one_sided, node, other, "which does not list it in return")
    return np.ascontiguousarray(host, np.int32)


def is_connected(neighbours: NDArray[np.integer]) -> bool:
    """Tell whether every node can be reached from node 0.

    Args:
      neighbours: [N, degree] integer neighbour table of an undirected graph.
    """
    seen = np.zeros(len(neighbours), bool)
    seen[0] = True
    frontier = np.array([0])
    while frontier.size:
        reached = np.unique(neighbours[frontier])
        frontier = reached[~seen[reached]]
        seen[frontier] = True
    return bool(seen.all())


def _check_integer(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}={value!r}: must be an integer")
    if value < low:
        raise ValueError(f"{name}={value!r}: must be >= {low}")


def _generator(seed: int) -> np.random.Generator:
    _check_integer("seed", seed, 0)
    return np.random.default_rng(seed)


def _refuse(fault: NDArray[np.bool_], node: NDArray[Any], other: NDArray[Any], why: str) -> None:
    if fault.any():
        first = int(np.argmax(fault))
        raise ValueError(f"neighbours: node {node[first]} lists node {other[first]}, {why}")


def _edges_of(table: NDArray[np.int32]) -> NDArray[np.int64]:
    """[E, 2] edges (low id first), ordered by node, of a neighbour table [N, degree]."""
    node = np.repeat(np.arange(len(table)), table.shape[1])
    edges = np.stack([node, table.reshape(-1).astype(np.int64)], axis=1)
    return edges[edges[:, 0] < edges[:, 1]]


def _table_of(edges: NDArray[np.integer], num_nodes: int, degree: int) -> NDArray[np.int32]:
    """[N, degree] int32 sorted neighbour table of the edges [E, 2] of a regular graph."""
    source = np.concatenate([edges[:, 0], edges[:, 1]])
    other = np.concatenate([edges[:, 1], edges[:, 0]])
    return other[np.lexsort((other, source))].reshape(num_nodes, degree).astype(np.int32)


def _regular_table(num_nodes: int, degree: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """[N, degree] uniform simple regular graph; see `random_regular`."""
    if 2 * degree > num_nodes - 1:
        # Complementing is one-to-one between degree d and degree N - 1 - d, so the law stays uniform.
        sparse = _regular_table(num_nodes, num_nodes - 1 - degree, rng)
        adjacent = ~np.eye(num_nodes, dtype=bool)
        adjacent[np.arange(num_nodes)[:, None], sparse] = False
        return np.nonzero(adjacent)[1].reshape(num_nodes, degree).astype(np.int32)
    if degree == 0:
        return np.empty((num_nodes, 0), np.int32)
    edges = _simple_pairing(num_nodes, degree, rng)
    if edges is None:
        edges = _mixed_circulant(num_nodes, degree, rng)
    return _table_of(edges, num_nodes, degree)


def _simple_pairing(num_nodes: int, degree: int, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """[E, 2] edges of the first simple pairing of the stubs; None if none is found."""
    # Limit for large N (Bollobas 1980).
    acceptance = math.exp((1 - degree**2) / 4)
    if acceptance < _MIN_ACCEPTANCE:
        return None
    stubs = np.repeat(np.arange(num_nodes, dtype=np.int64), degree)
    batch = max(1, min(math.ceil(1 / acceptance), _MAX_BATCH_STUBS // stubs.size))
    for _ in range(math.ceil(_MAX_PAIRINGS / batch)):
        shuffled = rng.permuted(np.tile(stubs, (batch, 1)), axis=1)
        first, second = shuffled[:, 0::2], shuffled[:, 1::2]
        loopless = np.flatnonzero((first != second).all(axis=1))
        low, high = np.minimum(first[loopless], second[loopless]), np.maximum(first[loopless], second[loopless])
        names = np.sort(low * num_nodes + high, axis=1)
        simple = np.flatnonzero((names[:, 1:] != names[:, :-1]).all(axis=1))
        if simple.size:
            return np.stack(np.divmod(names[simple[0]], num_nodes), axis=1)
    return None


def _mixed_circulant(num_nodes: int, degree: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[E, 2] edges of a randomly labelled circulant graph after a long double-edge-swap chain."""
    node = rng.permutation(num_nodes)
    edges = [np.stack([node, np.roll(node, -shift)], axis=1) for shift in range(1, degree // 2 + 1)]
    if degree % 2:
        edges.append(node.reshape(2, num_nodes // 2).T)
    joined = np.concatenate(edges)
    # A fixed number of attempts, refusals included: stopping after a number of successes would bias the law.
    return _swap_edges(joined, rng, _MIXING_ATTEMPTS * len(joined))[0]


def _cross_matching(module_of: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """[N / 2, 2] random perfect matching between nodes of different modules (equal modules, at least two)."""
    pairs = rng.permutation(len(module_of)).reshape(-1, 2)
    for index in range(len(pairs)):
        module = module_of[pairs[index, 0]]
        if module == module_of[pairs[index, 1]]:
            # At most size - 2 outside nodes have a partner in this module, and size or more nodes are outside,
            # so a pair that lies wholly outside exists, and swapping with it mends this pair for good.
            outside = np.flatnonzero((module_of[pairs] != module).all(axis=1))
            other = rng.choice(outside)
            pairs[index, 1], pairs[other, 0] = pairs[other, 0], pairs[index, 1]
    return _swap_edges(pairs, rng, _MIXING_ATTEMPTS * len(pairs), module_of=module_of)[0]


def _swap_edges(
    edges: NDArray[np.integer],
    rng: np.random.Generator,
    attempts: int,
    wanted: int | None = None,
    module_of: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], int]:
    """Attempt double-edge swaps that keep the graph simple (and, with `module_of`, every edge between modules).

    Returns:
      edges: [E, 2] int64, and the number of successful swaps (at most `wanted`).
    """
    pairs = [(min(pair), max(pair)) for pair in edges.tolist()]
    present = set(pairs)
    module = None if module_of is None else module_of.tolist()
    done = 0
    if len(pairs) < 2 or wanted == 0:
        return np.array(pairs, np.int64).reshape(-1, 2), done
    first = rng.integers(len(pairs), size=attempts)
    second = rng.integers(len(pairs) - 1, size=attempts)
    second += second >= first
    crossed = rng.integers(2, size=attempts)
    for one, two, flip in zip(first.tolist(), second.tolist(), crossed.tolist(), strict=True):
        (a, b), (c, d) = pairs[one], pairs[two]
        if flip:
            c, d = d, c
        if a in (c, d) or b in (c, d):
            continue
        if module is not None and (module[a] == module[c] or module[b] == module[d]):
            continue
        new_one, new_two = (a, c) if a < c else (c, a), (b, d) if b < d else (d, b)
        if new_one in present or new_two in present:
            continue
        present -= {pairs[one], pairs[two]}
        present |= {new_one, new_two}
        pairs[one], pairs[two] = new_one, new_two
        done += 1
        if done == wanted:
            break
    return np.array(pairs, np.int64), done
