"""Laws of the learned solver that hold for any weights: gauges, shifts, masks, regions beside each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ptycho_torch.config import ModelConfig
from ptycho_torch.generators import build
from ptycho_torch.generators.region_frames import RegionFrames
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.physics.regions import crop_patches, shifted_probes
from ptycho_torch.training.examples import Examples, Recipe
from ptycho_torch.training.pretrain import relative_error

SMALL = Recipe(
    sizes=(16,),
    regions=2,
    spacing=(0.2, 0.25),
    budget=25 * 256,
    misplaced=0.0,
    masked=0.0,
    photons=(9, 9),
    mended=0.0,
    few=0.0,
)


@pytest.fixture(scope="module")
def solver() -> RegionSolver:
    """Networks that do something: a fresh one changes nothing."""
    torch.manual_seed(0)
    made = RegionSolver(iterations=2, passes=2, width=8, levels=2)
    for net in (made.net, made.probe_net):
        torch.nn.init.normal_(net.leave.weight, std=0.01)
    return made.eval()


@pytest.fixture(scope="module")
def frames() -> RegionFrames:
    return Examples(3, SMALL).draw(2).frames


def solve(solver: RegionSolver, frames: RegionFrames, **options: bool) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        done = solver(frames, **options)
    return done.objects[-1], done.probe


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-3) -> bool:
    return float((a - b).abs().square().mean().sqrt() / b.abs().square().mean().sqrt()) < tolerance


@pytest.mark.parametrize("blind", [False, True])
def test_power_of_the_guess_is_a_gauge(solver: RegionSolver, frames: RegionFrames, blind: bool) -> None:
    obj, probe = solve(solver, frames, update_probe=blind)
    other, bright = solve(solver, replace(frames, probe=frames.probe * 3), update_probe=blind)
    assert close(other * 3, obj)
    assert close(bright / 3, probe)


def test_exposure_is_a_gauge(solver: RegionSolver, frames: RegionFrames) -> None:
    obj, _ = solve(solver, frames, update_probe=True)
    assert frames.noise is not None
    brighter = replace(frames, amplitudes=frames.amplitudes * 5, noise=frames.noise * 5)
    other, _ = solve(solver, brighter, update_probe=True)
    assert close(other / 5, obj)


def test_phase_of_the_probe_is_a_gauge_of_the_physics(frames: RegionFrames) -> None:
    physics = RegionSolver(iterations=2, passes=2, width=8, levels=1).eval()
    obj, _ = solve(physics, frames, update_probe=False)
    turned = replace(frames, probe=frames.probe * torch.polar(torch.tensor(1.0), torch.tensor(0.7)))
    other, _ = solve(physics, turned, update_probe=False)
    assert close(other, obj, 1e-4)


def test_a_region_is_solved_as_if_it_were_alone(solver: RegionSolver, frames: RegionFrames) -> None:
    both, _ = solve(solver, frames, update_probe=True)
    for region in range(2):
        mine = frames.owner == region
        alone = replace(
            frames,
            amplitudes=frames.amplitudes[mine],
            corners=frames.corners[mine],
            fractions=frames.fractions[mine],
            probe=frames.probe[region : region + 1],
            owner=torch.zeros(int(mine.sum()), dtype=torch.int64),
            noise=None if frames.noise is None else frames.noise[region : region + 1],
        )
        assert close(solve(solver, alone, update_probe=True)[0], both[region : region + 1])


def test_the_two_regions_are_different_ones(solver: RegionSolver, frames: RegionFrames) -> None:
    both, _ = solve(solver, frames, update_probe=True)
    assert not close(both[:1], both[1:], 0.1)


def test_untrusted_pixels_change_nothing(solver: RegionSolver, frames: RegionFrames) -> None:
    good = torch.ones(16, 16, dtype=torch.bool)
    good[3, 5] = False
    masked = replace(frames, good=good)
    hot = replace(masked, amplitudes=torch.where(good, frames.amplitudes, torch.tensor(1e4)))
    assert close(solve(solver, hot)[0], solve(solver, masked)[0], 1e-6)
    assert not close(solve(solver, replace(hot, good=None))[0], solve(solver, masked)[0], 1e-2)


def test_physics_alone_comes_nearer_with_every_repetition() -> None:
    example = Examples(5, replace(SMALL, exact=1.0)).draw(1)
    errors = []
    for count in (1, 5, 13):
        physics = RegionSolver(iterations=count, passes=4, width=8, levels=1)
        with torch.no_grad():
            found = physics(example.frames, update_probe=False).objects[-1]
        errors.append(float(relative_error(found, example).mean()))
    assert errors[2] < 0.7 * errors[1] < 0.7 * errors[0], errors


def test_few_frames_a_region_make_more_regions() -> None:
    recipe = replace(SMALL, few=1.0, modes=(1,))
    drawn = [Examples(0, recipe).draw(step).frames for step in range(6)]
    assert {len(frames.amplitudes) // len(frames.probe) for frames in drawn} == {1, 4}
    assert {len(frames.probe) for frames in drawn} == {6}


def test_mended_guesses_are_nearer() -> None:
    def error(mended: float) -> float:
        drawn = [Examples(0, replace(SMALL, exact=0.0, mended=mended)).draw(step) for step in range(6)]
        return sum(float((one.frames.probe - one.probe).norm() / one.probe.norm()) for one in drawn)

    assert 0 < error(1.0) < 0.5 * error(0.0)


def test_the_probe_is_mended_by_the_physics() -> None:
    example = Examples(7, replace(SMALL, exact=0.0, spacing=(0.15, 0.2), budget=100 * 256)).draw(3)
    physics = RegionSolver(iterations=1, passes=2, width=8, levels=1)

    def wrong(probe: torch.Tensor) -> float:
        found, wanted = probe[0].flatten(), example.probe[0].flatten()
        return float(1 - torch.vdot(found, wanted).abs() / found.norm() / wanted.norm())

    with torch.no_grad():
        found = physics(example.frames, update_probe=True, iterations=60).probe
    assert wrong(found) < 0.5 * wrong(example.frames.probe)


def test_late_iterations_settle(frames: RegionFrames) -> None:
    """What a network pushes against the frames is undone when its iterations are over; before, it stayed."""

    def solved(push: float, settles: bool) -> torch.Tensor:
        made = RegionSolver(iterations=2, passes=2, width=8, levels=1, settles=settles)
        with torch.no_grad():
            made.net.leave.bias[:2] = push
            return made(frames, update_probe=False, iterations=40).objects[-1]

    settled = (solved(0.1, True) - solved(0.0, True)).abs().square().mean().sqrt()
    stayed = (solved(0.1, False) - solved(0.0, False)).abs().square().mean().sqrt()
    assert settled < 0.3 * stayed, (settled, stayed)


def test_momentum_goes_on_from_one_iteration_to_the_next(frames: RegionFrames) -> None:
    """Without networks it makes no difference where an iteration ends: two of one pass are one of two."""
    short = RegionSolver(iterations=2, passes=1, width=8, levels=1)
    long = RegionSolver(iterations=1, passes=2, width=8, levels=1)
    with torch.no_grad():
        short.momentum.fill_(0.5)
        long.momentum.fill_(0.5)
        two = short(frames, update_probe=False, iterations=2).objects[-1]
        one = long(frames, update_probe=False, iterations=1).objects[-1]
    assert close(two, one, 1e-5)


@pytest.mark.parametrize("modes", [1, 2])
def test_gradients_reach_every_parameter(modes: int) -> None:
    example = Examples(0, replace(SMALL, modes=(modes,))).draw(0)
    made = RegionSolver(iterations=2, passes=2, width=8, levels=1)
    done = made(example.frames, update_probe=True, iterations=4, keep=True)
    (done.objects[-1] - example.truth).abs().square().sum().backward()
    silent = [
        name for name, p in made.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()
    ]
    # The last probe comes after the last object, so its network cannot matter to it.
    assert silent == []


@pytest.mark.parametrize("form", ["region", "settling"])
@pytest.mark.parametrize("members", [1, 4])
def test_groups_are_regions(members: int, form: str) -> None:
    """A batch of groups through the generator is what each group's region gives; its frame is explained."""
    torch.manual_seed(0)
    generator = build(ModelConfig(N=16, unrolled_form=form, unrolled_width=8, unrolled_levels=1)).eval()
    offsets = torch.tensor([[0.0, 0.0], [3, 0], [0, 3], [3, 3]])[:members]
    offsets = (offsets - offsets.mean(0)).expand(2, members, 2).unsqueeze(2)
    x = torch.rand(2, members, 16, 16)
    probe = Examples(1, SMALL).draw(0).probe[0]
    with torch.no_grad():
        both = generator.propose(x, offsets, probe).patches
        alone = generator.propose(x[1:], offsets[1:], probe).patches
    assert both.shape == (2, members, 16, 16)
    assert close(both[1:], alone, 1e-4)


def test_objects_have_the_brightness_that_explains_the_frames(
    solver: RegionSolver, frames: RegionFrames
) -> None:
    """No factor on the object makes the frames fit better."""
    obj, probe = solve(solver, frames, update_probe=True)
    waves = shifted_probes(probe[frames.owner], frames.fractions)
    field = torch.fft.fft2(
        crop_patches(obj, frames.corners, 16, frames.owner).unsqueeze(1) * waves, norm="ortho"
    )
    made = torch.fft.fftshift(field.abs().square().sum(1).sqrt(), dim=(-2, -1))
    for region in range(2):
        mine = frames.owner == region
        wrong = [
            float((factor * made[mine] - frames.amplitudes[mine]).square().sum())
            for factor in (0.98, 1.0, 1.02)
        ]
        assert wrong[1] < min(wrong[0], wrong[2])
