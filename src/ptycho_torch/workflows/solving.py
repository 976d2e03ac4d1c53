"""From a scan to its object: the learned solver, then sweeps where asked, then the residual on frames kept back."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho_torch.bundle.load import load_torch_bundle
from ptycho_torch.bundle.shipped import load_solver, shipped_bundle, solver_of
from ptycho_torch.device import device_of
from ptycho_torch.files.memory import memory_limit
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.model import default_probe
from ptycho_torch.reconstruction.predict import reconstruct as predict
from ptycho_torch.report.shown import shown_frames
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.scan.remembered import RememberedFrames
from ptycho_torch.scan.tiling import innermost
from ptycho_torch.solvers import SOLVERS, LearnedOptions, Progress, RefineOptions, SolverOptions
from ptycho_torch.solvers.learned import Learned
from ptycho_torch.solvers.probe_guess import nearer_guess
from ptycho_torch.solvers.residual import noise_floor, residual
from ptycho_torch.uncertainty.sigma import with_sigma

__all__ = [
    "Network",
    "judged",
    "kept_back",
    "network_of",
    "only_noise_is_left",
    "polishing",
    "probe_of",
    "read_once",
    "reconstruct",
    "same_beam",
    "solve",
    "starts_flat",
    "with_guess",
]

logger = logging.getLogger(__name__)
_FEWEST = 100
"""Frames below which none is kept back."""
_SHARE = 8
"""Frames up to this part of the memory are kept once read."""
PROBE_SWEEPS, PROBE_FRAMES = 10, 1024
"""Sweeps that bring the guess of the probe nearer, and the most frames that they use."""
_CLOSE = 0.08
"""Distance to the second neighbour, over N, below which sweeps from a flat object are as good and faster."""
_SWEEPS = 30
"""That follow by themselves, or from a flat object where frames are close."""
_FEW = 10.0
_HARDLY_ANY = 1.0
"""Photons per pixel of a frame below which sweeps get no momentum, and below which they stop early or are left out."""
_FEW_A_POINT = 9.0
"""Photons per object pixel, of all frames together, from which on sweeps find more than noise."""
_NOISE = 1.5
"""Times the noise of counts up to which a learned image has nothing left to be explained by sweeps."""
_ALIKE = 0.5
"""Correlation of two probes above which they are taken for one beam."""
_NEIGHBOURS = 4
"""Frames within a quarter of N that a frame must have to be kept back: they light all that it shows."""


@dataclass(frozen=True)
class Network:
    """What a bundle offers: the region solver, or a model of another kind that predicts group by group.

    ``probe``: the one of the scan that the bundle was trained on; None for the shipped bundle. ``name``: of
    the bundle.
    """

    solver: RegionSolver | None
    model: Any
    probe: NDArray[np.complex64] | None
    name: str


def network_of(bundle: str | Path | None, device: str = "cpu") -> Network:
    """Open a bundle; None is the one that ships with the package.

    Raises
    ------
    BundleError
        When it cannot be opened.
    """
    if bundle is None:
        return Network(load_solver(), None, None, f"shipped {shipped_bundle().name}")
    model, params = load_torch_bundle(bundle, device=device)
    solver = solver_of(model)
    # A bundle of pretraining knows no scan: its probe is a placeholder.
    trained = solver is None or params.get("amplitude_normalisation") is not None
    probe = np.asarray(params["probe"]) if trained and params.get("probe") is not None else None
    return Network(solver, model, probe, Path(bundle).name)


def kept_back(scan: Scan, share: float, seed: int = 0) -> NDArray[np.bool_]:
    """Choose frames that no solver is to see, so that the residual on them says what the image is worth.

    Parameters
    ----------
    scan : Scan
    share : float
        Part of the frames. Only frames with close neighbours are taken, and none from a scan of fewer than
        100: its image would suffer.
    seed : int

    Returns
    -------
    (M,) bool array
    """
    chosen = np.zeros(scan.n_frames, dtype=bool)
    if scan.n_frames < _FEWEST or share <= 0:
        return chosen
    tree = cKDTree(scan.positions)
    near = tree.query_ball_point(scan.positions, scan.N / 4, return_length=True) - 1
    able = np.flatnonzero(near >= _NEIGHBOURS)
    count = min(round(share * scan.n_frames), len(able) // 4)
    chosen[np.random.default_rng(seed).choice(able, count, replace=False)] = True
    return chosen


def starts_flat(scan: Scan) -> bool:
    """Whether frames overlap so much that iterative sweeps alone give the better image in the same time.

    Examples
    --------
    >>> from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
    >>> obj = make_object("grf", 96, 0)
    >>> def at(step):
    ...     positions = make_positions("grid", obj.shape, 32, step=step)
    ...     return simulate_scan(obj, make_probe("disk", 32), positions)
    >>> starts_flat(at(2)), starts_flat(at(6))
    (True, False)
    """
    return _spacing(scan) < _CLOSE


def _spacing(scan: Scan) -> float:
    """Median distance to the second neighbour, over N; infinity for fewer than three frames."""
    if scan.n_frames < 3:
        return float("inf")
    distance = cKDTree(scan.positions).query(scan.positions, k=3)[0][:, 2]
    return float(np.median(distance)) / scan.N


def polishing(patience: float = 1.0, photons: float = float("inf")) -> RefineOptions:
    """Return the sweeps that follow by themselves, with the whole step.

    Parameters
    ----------
    patience : float
        Factor on their number.
    photons : float
        Per pixel of a frame. Where they are few, what goes on along the way of the last sweep goes on along its
        noise: no momentum then; and below one, ten sweeps whose steps fall sooner.

    Examples
    --------
    >>> polishing().sweeps, polishing().momentum, polishing(photons=3).momentum
    (30, 0.9, 0.0)
    """
    if photons < _HARDLY_ANY:
        return RefineOptions(sweeps=max(1, round(10 * patience)), step=1.0, momentum=0.0, settling=1.0)
    sweeps = max(1, round(_SWEEPS * patience))
    options = RefineOptions(sweeps=sweeps, step=1.0)
    return replace(options, momentum=0.0) if photons < _FEW else options


def only_noise_is_left(rec: Reconstruction, scan: Scan, device: str = "cpu") -> bool:
    """Whether photons are so few that an image explains its frames about up to their noise, which sweeps would fit.

    References
    ----------
    .. [1] V. A. Morozov, Soviet Mathematics Doklady 7, 414 (1966), for the principle.
    """
    if scan.photons_per_pixel >= _HARDLY_ANY:
        return False
    if scan.photons_per_pixel >= _FEW_A_POINT * _spacing(scan) ** 2:  # frames add up where they overlap
        return False
    return residual(rec, scan, frames=64, device=device) <= _NOISE * noise_floor(rec, scan, device=device)


def solve(
    scan: Scan,
    network: Network,
    options: LearnedOptions | None = None,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Reconstruction:
    """Solve a scan with a network's region solver.

    It begins from the bundle's probe where that is of the same beam. Otherwise some sweeps of ``epie`` first improve
    the scan's guess of the probe: sweeps correct a wrong probe best, and nothing misleads the network more.
    """
    assert network.solver is not None
    options = options or LearnedOptions()
    if network.probe is not None and same_beam(scan, network.probe):
        scan = replace(scan, probe=np.asarray(network.probe, dtype=np.complex64))
    else:
        scan = with_probe(scan)
        if options.update_probe:
            scan = replace(scan, probe=probe_of(scan, device))
    return Learned(device, network.solver).solve(scan, None, options, progress)


def probe_of(scan: Scan, device: str) -> NDArray[np.complex64]:
    """Return the scan's probe, (modes, N, N), after some sweeps over the frames in its middle."""
    part = scan
    if scan.n_frames > PROBE_FRAMES:
        part = scan.select(innermost(scan.positions, PROBE_FRAMES))
    options = replace(polishing(photons=scan.photons_per_pixel), sweeps=PROBE_SWEEPS)
    return SOLVERS.get("epie")(device).solve(part, None, options).probe


def same_beam(scan: Scan, probe: NDArray[np.complex64]) -> bool:
    """Whether a probe is a better known form of a scan's guess, or all there is, and not another one."""
    if probe.shape[-1] != scan.N or scan.probe is None:
        return probe.shape[-1] == scan.N
    mine, other = scan.probe[0], probe[0]
    alike = abs(np.vdot(mine, other)) / max(float(np.linalg.norm(mine) * np.linalg.norm(other)), 1e-30)
    return bool(alike > _ALIKE)


def with_guess(
    scan: Scan, network: Network, options: SolverOptions | None = None, device: str = "cpu"
) -> tuple[Scan, dict[str, float]]:
    """Return the scan with a guess of its probe of the right size and in the right plane, and what was changed.

    Nothing is where a network of no solver is asked, or one that knows the beam, and where the ``options`` of sweeps
    keep the guess, if only at first.
    """
    if network.solver is None or (network.probe is not None and same_beam(scan, network.probe)):
        return scan, {}
    if options is not None and not options.update_probe:
        return scan, {}
    if isinstance(options, RefineOptions) and options.probe_after:
        return scan, {}
    guess = nearer_guess(scan := with_probe(scan), device)
    if (guess.size, guess.distance) == (1.0, 0.0):
        return scan, {}
    facts = {"probe_guess_size": guess.size, "probe_guess_distance": guess.distance}
    return replace(scan, probe=guess.probe), facts


def with_probe(scan: Scan) -> Scan:
    """Return the scan, with a disk for its probe where it has none."""
    if scan.probe is not None:
        return scan
    logger.warning("the scan has no probe guess: starting from a disk of radius N/4; --probe-file gives one")
    return replace(scan, probe=default_probe(scan.N))


def reconstruct(
    scan: Scan | str | Path,
    model: str | Path | None = None,
    *,
    sweeps: int = 10,
    refine: int | None = None,
    withhold: float = 0.02,
    uncertainty: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """Reconstruct a scan: frames in, image out, without training.

    Parameters
    ----------
    scan : Scan or path
        With a probe guess; it is solved for, too. One of another size, or from elsewhere along the beam, will do:
        see :func:`ptycho_torch.solvers.probe_guess.nearer_guess`.
    model : path, optional
        Bundle; default: the one that ships with the package.
    sweeps : int
        Iterations of the learned solver.
    refine : int, optional
        Sweeps of the iterative solver ``epie`` afterwards. Default: 30 after the shipped network, or from a flat
        object where frames overlap much, since there sweeps alone are as good and faster; none with ``model``.
        Fewer where photons are few, and none where the learned image leaves only their noise unexplained.
    withhold : float
        Part of the frames that is kept from the solver to measure ``residual_withheld`` on.
    uncertainty : bool
        Also give ``sigma_amplitude`` and ``sigma_phase``; takes about six times as long. See
        :func:`ptycho_torch.uncertainty.with_sigma`.
    device : str, optional
        Default: a GPU where there is one.
    progress : callable, optional
        Called with frames done and frames in all.

    Returns
    -------
    Reconstruction
        Gauge: one global phase is free; amplitudes are relative to its ``probe``, which predicts the frames.

    Raises
    ------
    PtychoError
        When scan or bundle cannot be used.

    Examples
    --------
    >>> from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
    >>> obj = make_object("grf", 96, 0)
    >>> scan = simulate_scan(obj, make_probe("zoneplate", 32), make_positions("grid", obj.shape, 32, step=8))
    >>> image = reconstruct(scan)
    >>> image.object.shape, image.residual < 0.05
    ((96, 96), True)
    """
    scan = scan if isinstance(scan, Scan) else open_scan(scan, require_probe=False)
    where = device or device_of("auto")
    network = network_of(model, where)
    hidden = kept_back(scan, withhold if network.solver is not None else 0.0)
    scan = read_once(scan, hidden)
    seen = scan.select(~hidden) if hidden.any() else scan
    seen, facts = with_guess(seen, network, device=where)

    def image(these: Scan, told: Progress | None = None) -> Reconstruction:
        if network.solver is None:
            return predict(network.model, these, progress=told)
        if model is None and refine is None:
            return _by_itself(these, network, sweeps, where, told)
        done = solve(these, network, LearnedOptions(sweeps=sweeps), device=where, progress=told)
        if not refine:
            return done
        return SOLVERS.get("epie")(where).solve(these, done, RefineOptions(sweeps=refine, step=1.0))

    done = image(seen, progress)
    done = replace(done, info={**done.info, **facts})
    if uncertainty:
        done = with_sigma(done, seen, image, device=where)
    if network.solver is None:
        return replace(done, residual=residual(done, scan, device=where))
    return judged(done, scan, hidden, where)


def _by_itself(
    scan: Scan, network: Network, sweeps: int, device: str, progress: Progress | None
) -> Reconstruction:
    """The way to an image that overlap and photons ask for."""
    epie, photons = SOLVERS.get("epie")(device), scan.photons_per_pixel
    if starts_flat(scan):
        return epie.solve(with_probe(scan), None, polishing(photons=photons), progress)
    done = solve(scan, network, LearnedOptions(sweeps=sweeps), device=device, progress=progress)
    if only_noise_is_left(done, scan, device):
        return done
    return epie.solve(scan, done, polishing(photons=photons))


def _sample(hidden: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Frames that were used, on which R is measured: 512 at most."""
    seen = np.flatnonzero(~hidden)
    return seen if len(seen) <= 512 else np.sort(np.random.default_rng(0).choice(seen, 512, replace=False))


def read_once(scan: Scan, hidden: NDArray[np.bool_]) -> Scan:
    """Return the scan, each of its frames read once from the file for all that follows, where memory allows.

    Else only those frames are kept that are needed several times: for the probe, the residual and the picture.
    """
    frames = scan.frames
    if not frames.files:
        return scan
    each = frames.stored_dtype.itemsize * (scan.N * frames.cut.bin) ** 2
    needed = np.union1d(_sample(hidden), shown_frames(scan.n_frames))
    seen = np.flatnonzero(~hidden)
    if len(seen) > PROBE_FRAMES:
        seen = seen[innermost(scan.positions[seen], PROBE_FRAMES)]
    for which in (np.arange(scan.n_frames), np.union1d(seen, needed), needed):
        if each * len(which) <= memory_limit() // _SHARE:
            return replace(scan, frames=RememberedFrames(frames, which))
    return scan


def judged(rec: Reconstruction, scan: Scan, hidden: NDArray[np.bool_], device: str = "cpu") -> Reconstruction:
    """Return the reconstruction of a scan's other frames with all positions, and R on both kinds of frames."""
    positions = scan.positions.copy()
    positions[~hidden] = rec.positions
    whole = replace(rec, positions=positions)
    seen = _sample(hidden)
    withheld = residual(whole, scan, hidden, device=device) if hidden.any() else None
    found = replace(whole, residual=residual(whole, scan, seen, device=device), residual_withheld=withheld)
    if found.overfits:
        logger.warning(
            "R of withheld frames is %.3g, of used ones %.3g: the image explains its frames by chance; "
            "fewer sweeps, more overlap, more photons or better positions help",
            found.residual_withheld,
            found.residual,
        )
    return found
