"""Phase synchronisation: one rotation per patch so that overlapping patches agree. Needs no torch.

Every node k (a patch, or the canvas so far) is known up to a global phase. An edge (i, j) carries
``A_ij = sum conj(n_i) n_j`` over the overlap. Wanted are unit numbers z that maximise

    sum_edges Re( conj(z_i) z_j A_ij )

They start from a maximum spanning tree, which solves any set of consistent phases exactly, and are
then improved by the generalised power method, ``z <- phase((H + D) z)``.

Source: N. Boumal, SIAM J. Optim. 26, 2355 (2016).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

from ptycho_torch.physics.gauges import unit_phase

__all__ = ["overlap_edges", "stragglers", "synchronise"]

_SWEEPS = 100
_TOLERANCE = 1e-9


def overlap_edges(overlap: NDArray[np.float64], floor: float, extra: int = 3) -> NDArray[np.int64]:
    """Pairs i < j worth comparing: the maximum spanning forest and each node's ``extra`` best partners.

    ``overlap``: (P, P) symmetric, 1 for full overlap; pairs below ``floor`` are not considered.
    Returns (E, 2), sorted, without duplicates.
    """
    count = len(overlap)
    strength = np.where(overlap >= floor, overlap, 0.0)
    np.fill_diagonal(strength, 0)
    # Stored costs must differ from zero, and ties must fall the same way everywhere.
    i, j = np.nonzero(np.triu(strength))
    cost = coo_array((2 - strength[i, j] / strength.max(initial=1), (i, j)), shape=(count, count))
    forest = minimum_spanning_tree(cost.tocsr()).tocoo()
    best = np.argsort(-strength, axis=1, kind="stable")[:, :extra]
    rows = np.repeat(np.arange(count), best.shape[1])
    keep = strength[rows, best.ravel()] > 0
    pairs = np.concatenate(
        [np.stack([forest.row, forest.col], 1), np.stack([rows[keep], best.ravel()[keep]], 1)]
    ).astype(np.int64)
    pairs.sort(axis=1)
    return np.unique(pairs, axis=0)


def synchronise(
    count: int, pairs: NDArray[np.int64], products: NDArray[np.complex128]
) -> NDArray[np.complex128]:
    """Rotations z (count,) of unit modulus by which the nodes are to be multiplied.

    ``pairs``: (E, 2) node numbers, ``products``: (E,) the A_ij. In the part of the graph that holds
    node 0, z_0 = 1; in every other part the mean rotation, weighted by the edges, is 1. A node without
    edges keeps z = 1.
    """
    z = np.ones(count, dtype=np.complex128)
    used = np.abs(products) > 0
    pairs, products = pairs[used], products[used]
    if not len(pairs):
        return z
    i, j = pairs.T
    size = np.abs(products)
    shape = (count, count)
    graph = coo_array((1 / size, (i, j)), shape=shape).tocsr()
    _, label = connected_components(graph, directed=False)
    tree = minimum_spanning_tree(graph)
    hermitian = coo_array(
        (np.concatenate([products.conj(), products]), (np.concatenate([j, i]), np.concatenate([i, j]))),
        shape=shape,
    ).tocsr()
    degree = np.bincount(i, size, count) + np.bincount(j, size, count)
    for part in np.unique(label[i]):
        root = int(np.argmax(label == part))
        order, parent = breadth_first_order(tree, root, directed=False)
        for node in order[1:]:  # scalars along the tree; parents come first
            link = hermitian[node, parent[node]]
            z[node] = z[parent[node]] * link / abs(link)
    for _ in range(_SWEEPS):
        # The diagonal keeps the iteration monotone.
        new = unit_phase(hermitian @ z + degree * z)
        change = np.abs(new - z).max()
        z = new
        if change < _TOLERANCE:
            break
    for part in np.unique(label[i]):
        inside = label == part
        gauge = z[0] if inside[0] else unit_phase(np.sum(z[inside] * degree[inside], keepdims=True))[0]
        z[inside] *= np.conj(gauge)
    return z


def stragglers(
    turns: NDArray[np.complex128], pairs: NDArray[np.int64], products: NDArray[np.complex128], limit: float
) -> NDArray[np.complex128]:
    """Of the rotations that :func:`synchronise` found, those of single nodes that stand out; else 1.

    A node stands out when it is turned by more than ``limit`` radians both in all and against the mean of its
    neighbours; that difference is returned. Rotations that drift slowly over many nodes are dropped.
    """
    size = np.abs(products)
    around = np.zeros_like(turns)
    for here, there in (pairs.T, pairs.T[::-1]):
        np.add.at(around, here, size * turns[there])
    alone = turns * np.conj(unit_phase(around))
    out = (np.abs(np.angle(turns)) > limit) & (np.abs(np.angle(alone)) > limit) & (np.abs(around) > 0)
    return np.where(out, alone, 1)
