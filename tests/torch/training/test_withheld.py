"""Losses of adaptation against twins in numpy: what withheld frames say, and what a moved copy is found to be."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ptycho_torch.generators.region_frames import RegionFrames, Solution
from ptycho_torch.training.withheld import equivariance, predicted_error

N = 8
SHAPE = (14, 17)
OWNER = np.array([1, 0, 2, 1, 1, 2, 0])
Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


def waves(rng: np.random.Generator, *shape: int) -> Complex:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def drawn(masked: bool = False, seed: int = 0) -> tuple[Solution, RegionFrames]:
    """Three regions with two or three frames each, in double; what was solved before the last is something else."""
    rng = np.random.default_rng(seed)
    corners = np.stack([rng.integers(0, edge - N + 1, len(OWNER)) for edge in SHAPE], 1)
    fractions, probe = rng.uniform(-0.5, 0.5, (len(OWNER), 2)), waves(rng, 3, 2, N, N)
    objects = [torch.from_numpy(waves(rng, 3, *SHAPE)) for _ in range(2)]
    coverage = rng.exponential(0.2, (3, *SHAPE))
    good = torch.from_numpy(rng.random((N, N)) < 0.7) if masked else None
    hidden = RegionFrames(
        torch.from_numpy(rng.uniform(0.5, 4, (len(OWNER), N, N))),
        torch.from_numpy(corners),
        torch.from_numpy(fractions),
        torch.from_numpy(waves(rng, 3, 2, N, N)),  # the guess, which says nothing here
        SHAPE,
        torch.from_numpy(OWNER),
        good,
    )
    return Solution(objects, torch.from_numpy(probe), torch.from_numpy(coverage)), hidden


def shifted(probe: Complex, fraction: Real) -> Complex:
    """P(r - f) by the definition of the transform; the Nyquist frequency keeps its cosine."""
    k = np.fft.fftfreq(N)
    lines = [np.where(k == -0.5, np.cos(np.pi * f), np.exp(-2j * np.pi * k * f)) for f in fraction]
    return np.fft.ifft2(np.fft.fft2(probe) * lines[1][:, None] * lines[0][None, :])


def moduli(obj: Complex, wave: Complex) -> Real:
    field = np.fft.fftshift(np.fft.fft2(obj * wave, norm="ortho"), axes=(-2, -1))
    found: Real = np.sqrt((np.abs(field) ** 2).sum(0) + 1e-12)
    return found


def twin(
    solution: Solution, hidden: RegionFrames, weights: Real | None = None, factors: Real | None = None
) -> tuple[Real, Real, Real]:
    """R_w of each region, the weight of each frame, and each region's factor, frame by frame."""
    objects, probe = solution.objects[-1].detach().numpy(), solution.probe.detach().numpy()
    cover, good = solution.coverage.detach().numpy(), np.ones((N, N))
    if hidden.good is not None:
        good = hidden.good.numpy().astype(float)
    sums, seen = np.zeros((3, 3)), np.zeros(len(OWNER))
    for m, owner in enumerate(OWNER):
        row, column = hidden.corners[m].numpy()
        place = slice(row, row + N), slice(column, column + N)
        wave = shifted(probe[owner], hidden.fractions[m].numpy())
        light, covered = (np.abs(wave) ** 2).sum(0), cover[owner][place]
        seen[m] = (light * covered / (covered + 0.1)).sum() / light.sum()
        weight = seen[m] if weights is None else weights[m]
        made, measured = moduli(objects[owner][place], wave) * good, hidden.amplitudes[m].numpy() * good
        sums[owner] += weight * np.array([(measured**2).sum(), (made * measured).sum(), (made**2).sum()])
    norm, both, power = sums.T
    factor = both / power if factors is None else factors
    return np.sqrt((norm - 2 * factor * both + factor**2 * power) / norm), seen, factor


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_withheld_frames_count_by_the_light_that_falls_where_others_lie(masked: bool, seed: int) -> None:
    solution, hidden = drawn(masked, seed)
    found = predicted_error(solution, hidden)
    assert found.shape == (3,)
    np.testing.assert_allclose(found.numpy(), twin(solution, hidden)[0], rtol=1e-7)


def test_one_factor_on_each_region_and_the_unit_of_frames_are_free() -> None:
    solution, hidden = drawn()
    plain = predicted_error(solution, hidden)
    factors = torch.tensor([0.2, -3.0, 1.5j])
    turned = dataclasses.replace(solution, objects=[solution.objects[-1] * factors[:, None, None]])
    bright = dataclasses.replace(hidden, amplitudes=hidden.amplitudes * 40)
    for other in (predicted_error(turned, hidden), predicted_error(solution, bright)):
        torch.testing.assert_close(other, plain, rtol=1e-7, atol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_goes_through_what_is_predicted_and_not_through_the_weights(masked: bool) -> None:
    """Else a solver could do better by looking where it is dark."""
    solution, hidden = drawn(masked)
    leaves = [t.clone().requires_grad_() for t in (solution.objects[-1], solution.probe, solution.coverage)]
    asked = Solution([leaves[0]], leaves[1], leaves[2])
    predicted_error(asked, hidden).sum().backward()  # type: ignore[no-untyped-call]
    assert leaves[2].grad is None
    rng, eps = np.random.default_rng(5), 1e-5
    _, weights, factors = twin(solution, hidden)
    for name, leaf in (("objects", leaves[0]), ("probe", leaves[1])):
        way = torch.from_numpy(waves(rng, *leaf.shape))
        ends = []
        for sign in (1, -1):
            moved: Any = leaf.detach() + sign * eps * way
            there = dataclasses.replace(solution, **{name: [moved] if name == "objects" else moved})
            ends.append(twin(there, hidden, weights, factors)[0].sum())
        assert leaf.grad is not None
        slope = float((leaf.grad.conj() * way).real.sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 1e-6])
def test_faint_objects_and_faint_frames_are_compared_alike(factor: float) -> None:
    """The floor of a modulus is a millionth, and nothing else is added to what is small."""
    solution, hidden = drawn()
    faint = dataclasses.replace(solution, objects=[factor * solution.objects[-1]])
    np.testing.assert_allclose(predicted_error(faint, hidden).numpy(), twin(faint, hidden)[0], rtol=1e-7)
    dim = dataclasses.replace(hidden, amplitudes=factor * hidden.amplitudes)
    torch.testing.assert_close(predicted_error(solution, dim), predicted_error(solution, hidden))


def test_an_object_of_nothing_has_a_gradient() -> None:
    solution, hidden = drawn()
    leaf = torch.zeros_like(solution.objects[-1]).requires_grad_()
    predicted_error(dataclasses.replace(solution, objects=[leaf]), hidden).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert torch.isfinite(torch.view_as_real(leaf.grad)).all()


def test_regions_in_the_dark_give_finite_numbers() -> None:
    solution, hidden = drawn()
    dark = dataclasses.replace(solution, coverage=torch.zeros_like(solution.coverage))
    unlit = dataclasses.replace(solution, probe=torch.zeros_like(solution.probe))
    for found in (dark, unlit):
        error = predicted_error(found, dataclasses.replace(hidden, amplitudes=0 * hidden.amplitudes))
        assert torch.isfinite(error).all()
    # What leaves nothing unexplained has a gradient all the same.
    leaf = solution.probe.clone().requires_grad_()
    same = Solution(solution.objects, leaf, solution.coverage)
    none = dataclasses.replace(hidden, amplitudes=0 * hidden.amplitudes)
    error = predicted_error(same, none)
    np.testing.assert_allclose(error.detach().numpy(), 1e-9**0.5, rtol=1e-6)
    error.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert torch.isfinite(torch.view_as_real(leaf.grad)).all()


# ------------------------------------------------------------------ single frames
class Told:
    """A solver that says of the first frames one thing and of the next another; ``asked`` is what it was given."""

    def __init__(self, *answers: torch.Tensor) -> None:
        self.answers, self.asked = list(answers), list[RegionFrames]()

    def __call__(self, frames: RegionFrames, *, update_probe: bool, keep: bool) -> Solution:
        assert keep
        assert not update_probe
        self.asked.append(frames)
        answer = self.answers[len(self.asked) - 1]
        return Solution([0 * answer, 2 * answer.conj(), answer], frames.probe, torch.ones(answer.shape))


def singles(regions: int = 3, seed: int = 0) -> tuple[RegionFrames, Complex, Complex]:
    """One frame in each region, and two answers."""
    rng = np.random.default_rng(seed)
    frames = RegionFrames(
        torch.from_numpy(rng.uniform(0.5, 4, (regions, N, N))),
        torch.zeros(regions, 2, dtype=torch.int64),
        torch.from_numpy(rng.uniform(-0.5, 0.5, (regions, 2))),
        torch.from_numpy(waves(rng, regions, 2, N, N)),
        (N, N),
        torch.arange(regions),
        torch.from_numpy(rng.random((N, N)) < 0.7),
    )
    return frames, waves(rng, regions, N, N), waves(rng, regions, N, N)


@pytest.mark.parametrize(("seed", "unit"), [*((seed, 1.0) for seed in range(16)), (0, 1e-6)])
def test_a_moved_copy_should_be_found_as_it_was_moved(seed: int, unit: float) -> None:
    """In whatever unit the answers are."""
    frames, first, second = singles()
    first, second = unit * first, unit * second
    solver = Told(torch.from_numpy(first), torch.from_numpy(second))
    found = float(equivariance(solver, frames, np.random.default_rng(seed)))  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    shift = rng.integers(-1, 2, 2)
    moved = np.rot90(first, turns, (-2, -1))
    moved = np.roll(moved[..., ::-1] if mirrored else moved, shift, (-2, -1))
    apart = []
    for k in range(3):
        wave = shifted(frames.probe[k].numpy(), frames.fractions[k].numpy())
        np.testing.assert_allclose(solver.asked[1].amplitudes[k].numpy(), moduli(moved[k], wave), rtol=1e-6)
        power = (np.abs(wave) ** 2).sum(0)
        overlap = (power * moved[k] * second[k].conj()).sum()
        turn = overlap / abs(overlap)
        apart.append((power * np.abs(second[k] * turn - moved[k])).sum() / (power * np.abs(moved[k])).sum())
    own = predicted_error(Solution([torch.from_numpy(first)], frames.probe, torch.ones(3, N, N)), frames)
    assert found == pytest.approx(float(own.mean()) + np.mean(apart), rel=1e-9)
    assert torch.equal(solver.asked[0].amplitudes, frames.amplitudes)
    for field in ("corners", "fractions", "probe", "owner", "good"):
        assert torch.equal(getattr(solver.asked[1], field), getattr(frames, field))


def test_shifts_go_as_far_as_an_eighth_of_a_frame() -> None:
    """Of frames of 32 pixels a copy lies up to 4 away, each way on each axis, and anyhow round."""
    obj = np.zeros((1, 32, 32), complex)
    obj[0, 16, 16], obj[0, 16, 18], obj[0, 13, 16] = 4, 2, 1
    probe = np.zeros((1, 1, 32, 32), complex)
    probe[0, 0] = 1 + np.arange(32) * 0.1 + np.arange(32)[:, None] * 3.1
    frames = RegionFrames(
        torch.ones(1, 32, 32, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.int64),
        torch.zeros(1, 2, dtype=torch.float64), torch.from_numpy(probe), (32, 32), torch.zeros(1, dtype=torch.int64),
    )  # fmt: skip
    places, ways = set(), set()
    for seed in range(200):
        solver = Told(*2 * [torch.from_numpy(obj)])
        equivariance(solver, frames, np.random.default_rng(seed))  # type: ignore[arg-type]
        rng = np.random.default_rng(seed)
        way = int(rng.integers(4)), rng.random() < 0.5
        shift = tuple(int(v) for v in rng.integers(-4, 5, 2))
        moved = np.rot90(obj, way[0], (-2, -1))
        moved = np.roll(moved[..., ::-1] if way[1] else moved, shift, (-2, -1))
        if seed < 20:
            np.testing.assert_allclose(
                solver.asked[1].amplitudes[0].numpy(), moduli(moved[0], probe[0]), rtol=1e-6
            )
        places.add(shift)
        ways.add(way)
    assert len(ways) == 8
    assert {abs(v) for shift in places for v in shift} == set(range(5))


def test_a_first_answer_of_nothing_makes_frames_of_a_millionth_and_has_a_gradient() -> None:
    frames, _, second = singles()
    nothing = torch.zeros(3, N, N, dtype=torch.complex128, requires_grad=True)

    class Solver(Told):
        def __call__(self, frames: RegionFrames, *, update_probe: bool, keep: bool) -> Solution:
            found = super().__call__(frames, update_probe=update_probe, keep=keep)
            return dataclasses.replace(found, objects=[found.objects[-1] * frames.amplitudes])

    solver = Solver(nothing, torch.from_numpy(second))
    equivariance(solver, frames, np.random.default_rng(0))  # type: ignore[arg-type]
    np.testing.assert_allclose(solver.asked[1].amplitudes.detach().numpy(), 1e-6, rtol=1e-9)
    solver.asked[1].amplitudes.sum().backward()  # type: ignore[no-untyped-call]
    assert nothing.grad is not None
    assert torch.isfinite(torch.view_as_real(nothing.grad)).all()


def test_dark_answers_give_a_finite_number() -> None:
    frames, first, _ = singles()
    solver = Told(torch.from_numpy(first), torch.zeros(3, N, N, dtype=torch.complex128))
    plain = float(equivariance(solver, frames, np.random.default_rng(0)))  # type: ignore[arg-type]
    own = predicted_error(Solution([torch.from_numpy(first)], frames.probe, torch.ones(3, N, N)), frames)
    assert plain == pytest.approx(float(own.mean()) + 1, rel=1e-9)


def test_both_answers_have_a_gradient_and_the_second_by_its_frames_too() -> None:
    """That of the first is one of a fixed turn, and the size that differences are relative to is no way out."""
    frames, first, second = singles()
    leaves = [torch.from_numpy(answer).requires_grad_() for answer in (first, second)]

    class Solver(Told):
        def __call__(self, frames: RegionFrames, *, update_probe: bool, keep: bool) -> Solution:
            found = super().__call__(frames, update_probe=update_probe, keep=keep)
            if len(self.asked) == 1:
                return found
            return dataclasses.replace(found, objects=[found.objects[-1] * frames.amplitudes.square()])

    def loss(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        return equivariance(Solver(one, two), frames, np.random.default_rng(2))  # type: ignore[arg-type]

    loss(*leaves).backward()  # type: ignore[no-untyped-call]
    grads = [leaf.grad for leaf in leaves]
    rng, eps = np.random.default_rng(7), 1e-6
    draw = np.random.default_rng(2)
    turns, mirrored, shift = int(draw.integers(4)), draw.random() < 0.5, draw.integers(-1, 2, 2)

    def by_hand(
        one: Complex, two: Complex, fixed: tuple[Complex, Real]
    ) -> tuple[float, tuple[Complex, Real]]:
        moved = np.rot90(one, turns, (-2, -1))
        moved = np.roll(moved[..., ::-1] if mirrored else moved, shift, (-2, -1))
        total, turn, sizes = 0.0, np.zeros(3, complex), np.zeros(3)
        for k in range(3):
            wave = shifted(frames.probe[k].numpy(), frames.fractions[k].numpy())
            power, again = (np.abs(wave) ** 2).sum(0), two[k] * moduli(moved[k], wave) ** 2
            overlap = (power * moved[k] * again.conj()).sum()
            turn[k], sizes[k] = overlap / abs(overlap), (power * np.abs(moved[k])).sum()
            used = fixed[0][k] if len(fixed[0]) else turn[k], fixed[1][k] if len(fixed[1]) else sizes[k]
            total += (power * np.abs(again * used[0] - moved[k])).sum() / used[1] / 3
        own = predicted_error(Solution([torch.from_numpy(one)], frames.probe, torch.ones(3, N, N)), frames)
        return total + float(own.mean()), (turn, sizes)

    nothing = np.zeros(0, complex), np.zeros(0)
    _, fixed = by_hand(first, second, nothing)
    for k in range(2):
        way = waves(rng, 3, N, N)
        ends = []
        for sign in (1, -1):
            moved = [first, second]
            moved[k] = moved[k] + sign * eps * way
            ends.append(by_hand(*moved, fixed)[0])
        gradient = grads[k]
        assert gradient is not None
        slope = float((gradient.numpy().conj() * way).real.sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-4)
