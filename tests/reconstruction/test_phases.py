from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree

from ptycho_torch.reconstruction.phases import overlap_edges, stragglers, synchronise


def random_graph(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tree = [(int(rng.integers(0, j)), j) for j in range(1, count)]
    more = [tuple(sorted(rng.choice(count, 2, replace=False))) for _ in range(count)]
    return np.unique(np.array(tree + more, dtype=np.int64).reshape(-1, 2), axis=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_consistent_phases_are_solved_exactly(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = random_graph(count, seed)
    phases = rng.uniform(-np.pi, np.pi, count)
    strength = 10 ** rng.uniform(-4, 4, len(pairs))
    products = strength * np.exp(1j * (phases[pairs[:, 1]] - phases[pairs[:, 0]]))
    z = synchronise(count, pairs, products)
    assert np.allclose(np.abs(z), 1)
    assert z[0] == 1 or abs(z[0] - 1) < 1e-12
    assert np.allclose(z * np.exp(1j * phases), np.exp(1j * phases[0]), atol=1e-6)


def test_agreeing_phases_are_left_exactly_alone() -> None:
    pairs = random_graph(30, 1)
    assert np.array_equal(synchronise(30, pairs, np.ones(len(pairs), complex)), np.ones(30))


def test_no_edges() -> None:
    none = np.zeros((0, 2), np.int64)
    assert np.array_equal(synchronise(3, none, np.zeros(0, complex)), np.ones(3))
    assert np.array_equal(synchronise(2, np.array([[0, 1]]), np.zeros(1, complex)), np.ones(2))


def test_a_part_without_the_canvas_keeps_its_mean_phase() -> None:
    pairs = np.array([[1, 2], [2, 3], [1, 3]])
    phases = np.array([0, 0.3, -0.1, -0.2])
    z = synchronise(4, pairs, np.exp(1j * (phases[pairs[:, 1]] - phases[pairs[:, 0]])))
    assert z[0] == 1
    assert abs(np.angle(np.sum(z[1:]))) < 1e-9
    assert np.ptp(np.angle(z[1:]) + phases[1:]) < 1e-9


def test_noise_is_averaged_over_loops() -> None:
    rng = np.random.default_rng(0)
    count = 40
    pairs = np.stack(np.triu_indices(count, 1), 1)
    phases = rng.uniform(-np.pi, np.pi, count)
    noisy = phases[pairs[:, 1]] - phases[pairs[:, 0]] + rng.normal(0, 0.5, len(pairs))
    z = synchronise(count, pairs, np.exp(1j * noisy))
    error = np.angle(z * np.exp(1j * (phases - phases[0])))
    assert np.std(error) < 0.15  # one path alone would have at least 0.5


def test_edges_connect_what_overlaps_and_nothing_else() -> None:
    at = np.array([0, 1, 2, 3, 20, 21, 60.0])
    overlap = np.maximum(0, 1 - np.abs(at[:, None] - at) / 4)
    pairs = overlap_edges(overlap, 0.05, extra=1)
    assert pairs.tolist() == sorted(pairs.tolist())
    assert {tuple(p) for p in pairs} == {(0, 1), (1, 2), (2, 3), (4, 5)}
    assert overlap_edges(np.eye(3), 0.05).shape == (0, 2)


def test_many_frames_at_one_place_are_still_connected() -> None:
    overlap = np.ones((12, 12))
    overlap[:6, 6:] = overlap[6:, :6] = 0.1
    pairs = overlap_edges(overlap, 0.05, extra=2)
    assert any(i < 6 <= j for i, j in pairs)


def dense(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    overlap = np.triu(rng.uniform(0.1, 0.9, (count, count)), 1)
    return overlap + overlap.T + np.eye(count)


@pytest.mark.parametrize("seed", range(4))
def test_the_forest_is_the_strongest_there_is(seed: int) -> None:
    overlap = dense(7, seed)
    tree = minimum_spanning_tree(-np.triu(overlap, 1))
    strongest = {tuple(sorted(pair)) for pair in zip(*tree.nonzero(), strict=True)}
    assert {tuple(pair) for pair in overlap_edges(overlap, 0.05, extra=0)} == strongest


def test_three_best_partners_come_besides() -> None:
    overlap = dense(9, 5)
    found = {tuple(pair) for pair in overlap_edges(overlap, 0.05)}
    np.fill_diagonal(overlap, 0)
    best = {tuple(sorted((i, int(j)))) for i in range(9) for j in np.argsort(-overlap[i])[:3]}
    forest = {tuple(pair) for pair in overlap_edges(dense(9, 5), 0.05, extra=0)}
    assert found == best | forest
    assert len(found) < 9 * 8 / 2


def test_an_overlap_at_the_floor_counts() -> None:
    overlap = np.array([[1, 0.25], [0.25, 1]])
    assert overlap_edges(overlap, 0.25).tolist() == [[0, 1]]
    assert overlap_edges(overlap, 0.26).shape == (0, 2)


def test_stragglers_are_told_from_drift() -> None:
    count = 100
    pairs = np.concatenate([np.stack([np.arange(count - d), np.arange(d, count)], 1) for d in (1, 2)])
    phases = np.linspace(0, 6, count)
    phases[50] += 2
    products = np.exp(1j * (phases[pairs[:, 1]] - phases[pairs[:, 0]]))
    turns = stragglers(synchronise(count, pairs, products), pairs, products, 0.5)
    assert np.flatnonzero(turns != 1).tolist() == [50]
    assert abs(np.angle(turns[50]) + 2) < 0.1
    assert np.array_equal(stragglers(np.ones(3, complex), pairs[:0], products[:0], 0.5), np.ones(3))


def test_parts_that_hang_apart_are_each_solved_exactly() -> None:
    """Far more nodes in a row than phases could travel in the sweeps that follow the tree."""
    rng = np.random.default_rng(2)
    rows = [np.stack([np.arange(a, a + 89), np.arange(a + 1, a + 90)], 1) for a in (0, 90, 180)]
    pairs = np.concatenate(rows)
    phases = rng.uniform(-np.pi, np.pi, 270)
    # Weak links: a product of them along the row would underflow.
    z = synchronise(270, pairs, 1e-4 * np.exp(1j * (phases[pairs[:, 1]] - phases[pairs[:, 0]])))
    left = z * np.exp(1j * phases)
    for part in np.split(left, 3):
        assert np.allclose(part, part[0], atol=1e-8)


def test_strong_links_are_followed_first() -> None:
    rng = np.random.default_rng(4)
    count = 60
    row = np.stack([np.arange(count - 1), np.arange(1, count)], 1)
    far = np.array([(0, j) for j in range(2, count)])
    phases = rng.uniform(-np.pi, np.pi, count)
    good = np.exp(1j * (phases[row[:, 1]] - phases[row[:, 0]]))
    wrong = 1e-6 * np.exp(1j * rng.uniform(-np.pi, np.pi, len(far)))
    z = synchronise(count, np.concatenate([row, far]), np.concatenate([good, wrong]))
    assert np.allclose(z * np.exp(1j * (phases - phases[0])), 1, atol=1e-2)


@pytest.mark.parametrize("count", [4, 5, 6])
def test_what_is_found_is_a_fixed_point(count: int) -> None:
    """Every node agrees with the weighted mean of its neighbours and itself, as at a maximum it must."""
    rng = np.random.default_rng(count)
    ring = np.array([tuple(sorted((k, (k + 1) % count))) for k in range(count)])
    products = rng.uniform(0.5, 2, count) * np.exp(1j * rng.normal(0, 0.4, count))
    z = synchronise(count, ring, products)
    pull = np.zeros(count, complex)
    for (i, j), product in zip(ring, products, strict=True):
        pull[i] += product * z[j]
        pull[j] += np.conj(product) * z[i]
    # z maximises Re sum conj(z_i) z_j A_ij, for which z_i points along sum_j A_ij z_j.
    assert np.abs(np.angle(pull * z.conj())).max() < 1e-7


def test_an_edge_without_a_product_is_none() -> None:
    z = synchronise(3, np.array([[0, 1], [1, 2]]), np.array([1j, 0]))
    assert z == pytest.approx([1, -1j, 1])


def test_the_mean_of_a_part_is_weighted_by_its_edges() -> None:
    pairs = np.array([[1, 2], [1, 3]])
    products = np.array([5 * np.exp(0.8j), 0.5 * np.exp(-2j)])
    z = synchronise(4, pairs, products)
    degree = np.array([5.5, 5, 0.5])
    assert abs(np.angle(np.sum(degree * z[1:]))) < 1e-9


def test_a_straggler_is_beyond_the_limit_and_has_neighbours() -> None:
    pairs, limit = np.array([[0, 1], [1, 2]]), np.pi / 2
    weak = np.full(2, 1e-3 + 0j)
    # Just at the limit in all, or against its neighbours: not beyond it.
    assert np.array_equal(stragglers(np.array([-1j, 1j, -1j]), pairs, weak, limit), np.ones(3))
    assert stragglers(np.array([1j, -1, 1j]), pairs, weak, limit)[1] == 1
    assert stragglers(np.array([1, -1, 1 + 0j]), pairs, weak, limit).tolist() == [1, -1, 1]
    assert np.array_equal(stragglers(np.array([1, 1, 1, -1 + 0j]), pairs, weak, limit), np.ones(4))
