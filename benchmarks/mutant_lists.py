"""What `mutate.py` changes, which tests have to notice, and which changes are harmless."""

from __future__ import annotations

TARGETS = {
    "ptycho_torch/physics/likelihood.py": ("tests/torch/physics/test_likelihood.py",),
    "ptycho_torch/physics/propagation.py": ("tests/torch/physics/test_propagation.py",),
    "ptycho_torch/physics/projection.py": ("tests/torch/physics/test_projection.py",),
    "ptycho_torch/physics/bilinear.py": ("tests/torch/physics/test_bilinear.py",),
    "ptycho_torch/physics/regions.py": ("tests/torch/physics/test_regions.py",),
    "ptycho_torch/physics/gauges.py": (
        "tests/physics/test_gauge_fixing.py",
        "tests/torch/physics/test_object_scale.py",
    ),
    "ptycho_torch/physics/patches.py": ("tests/torch/physics/test_patches.py",),
    "ptycho_torch/physics/units.py": ("tests/physics/test_units.py",),
    "ptycho_torch/reconstruction/phases.py": ("tests/reconstruction/test_phases.py",),
    "ptycho_torch/reconstruction/stitching.py": (
        "tests/torch/reconstruction/test_stitched_canvas.py",
        "tests/torch/reconstruction/test_stitching.py",
        "tests/torch/reconstruction/test_comparing.py",
    ),
    "ptycho_torch/training/module.py": (
        "tests/torch/training/test_losses.py",
        "tests/torch/training/test_steps.py",
        "tests/torch/training/test_stopping.py",
    ),
    "ptycho_torch/training/withheld.py": ("tests/torch/training/test_withheld.py",),
    "ptycho_torch/training/sharing.py": ("tests/torch/training/test_parts.py",),
    "ptycho_torch/evaluation/alignment.py": (
        "tests/evaluation/test_alignment.py",
        "tests/evaluation/test_gauge.py",
    ),
    "ptycho_torch/evaluation/evaluate.py": ("tests/evaluation/test_evaluate.py",),
    "ptycho_torch/evaluation/gauge.py": ("tests/evaluation/test_gauge_fit.py",),
    "ptycho_torch/evaluation/moving.py": ("tests/evaluation/test_moving.py",),
    "ptycho_torch/evaluation/frc.py": ("tests/evaluation/test_frc.py",),
    "ptycho_torch/evaluation/metrics.py": (
        "tests/evaluation/test_metrics.py",
        "tests/evaluation/test_ms_ssim.py",
    ),
}
"""Source files under src/ and the tests that have to notice."""

SHORT = {
    "ptycho_torch/physics/units.py": 6,
    "ptycho_torch/physics/gauges.py": 9,
    "ptycho_torch/reconstruction/phases.py": 16,
}
"""Files of the short run, and every how many mutants it takes."""

_SQUARE = "frames are square"
_FOUR = "the same axis: patches have four"
_PLENTY = "an upper bound on sweeps that end much sooner by themselves, or when they end"
_SHORTCUT = "a shortcut: the other way gives the same numbers"
_ORDER = "only the order of the costs counts"
_JOINT = "both pieces have the same value where they meet"
_SYMMETRIC = "symmetric in both"
_EXPERIENCE = "a threshold by experience: nothing depends on its last digits"
_ANY_NEGATIVE_MARK = "any negative number marks those that are left out"
_ONE_MODEL = "the weights of a model are on one device and of one type"
_AS_LONG = "they are as long as each other"
_UNUSED = "a third number is drawn and not used"
_DARK = "where no light falls nothing is believed, whatever it is divided by"
_EXACTLY = "nothing that is measured lies exactly there"
_ANY_NEGATIVE = "any negative length is the one to be found"
_ROUNDING = "only rounding makes it negative"
_EITHER_SIDE = "a window's spectrum is the same to either side, so one counted twice is as good as both"
_LONGER = "a longer transform finds the same, or finer, and more slowly"
_NOWHERE_NEAR = (
    "no shift of a quarter comes near the half, or third, of a transform that is longer than the region"
)
_COMMON_PHASE = "about which point it turns is one common phase, which is fitted too"
_IN_THE_SPAN = "the model itself is among the slopes: only its own coefficient changes, and that is not used"
_GRAD = "not torch.is_grad_enabled() or not wave.requires_grad"
HARMLESS: dict[tuple[str, str, str], str] = {
    ("units.py", "probe.shape[-1] / 2", "-1  ->  1"): _SQUARE,
    ("units.py", "probe.shape[-1] / 2", "1  ->  2"): _SQUARE,
    ("regions.py", "patches.shape[-1]", "-1  ->  1"): _SQUARE,
    ("regions.py", "patches.shape[-1]", "1  ->  2"): _SQUARE,
    ("regions.py", "shift_ramps(fractions, probe", "1  ->  2"): _SQUARE,
    ("patches.py", "patches.shape[-1], region)", "1  ->  2"): _SQUARE,
    ("patches.py", "region.shape[-1]", "-1  ->  1"): _SQUARE,
    ("patches.py", "region.shape[-1]", "1  ->  2"): _SQUARE,
    ("patches.py", "torch.where(x <= 1", "x <= 1  ->  x < 1"): _JOINT,
    ("patches.py", "torch.where(x <= 1", "x < 2  ->  x <= 2"): _JOINT,
    ("patches.py", "if own != 1", "1  ->  2"): _SHORTCUT,
    (
        "bilinear.py",
        "across.unsqueeze(-3).transpose(-2, -1)",
        "across.unsqueeze(-3).transpose(-2, -1)  ->  across.unsqueeze(-3).transpose(-1, -2)",
    ): _SYMMETRIC,
    (
        "sharing.py",
        "max(parts, group.size)",
        "max(parts, group.size)  ->  max(group.size, parts)",
    ): _SYMMETRIC,
    ("sharing.py", "max(parts, group.size)", "1  ->  2"): "a batch without regions is not drawn",
    ("sharing.py", "place = torch.full", "1  ->  2"): _ANY_NEGATIVE_MARK,
    ("sharing.py", "number = torch.full", "1  ->  2"): _ANY_NEGATIVE_MARK,
    ("sharing.py", "parameters[0].device", "0  ->  1"): _ONE_MODEL,
    ("sharing.py", "parameters[0].dtype", "0  ->  1"): _ONE_MODEL,
    ("sharing.py", "zip(left, sums", "True  ->  False"): _AS_LONG,
    ("sharing.py", "zip(parameters, used", "True  ->  False"): _AS_LONG,
    ("withheld.py", "hidden.amplitudes.shape[-1]", "-1  ->  1"): _SQUARE,
    ("withheld.py", "hidden.amplitudes.shape[-1]", "1  ->  2"): _SQUARE,
    ("withheld.py", "given.amplitudes.shape[-1]", "-1  ->  1"): _SQUARE,
    ("withheld.py", "given.amplitudes.shape[-1]", "1  ->  2"): _SQUARE,
    ("withheld.py", "rng.random() < 0.5", "rng.random() < 0.5  ->  rng.random() <= 0.5"): _EXACTLY,
    ("withheld.py", "shift = rng.integers", "2  ->  3"): _UNUSED,
    ("module.py", "shift = rng.integers", "2  ->  3"): _UNUSED,
    ("withheld.py", "light.sum((1, 2)).clamp_min", "1e-12  ->  1e-09"): (
        "it is the same on the frames of a region, and only their ratios count"
    ),
    ("module.py", "groups, members, size = ", "1  ->  2"): _SQUARE,
    ("module.py", "patches.shape[-1]", "1  ->  2"): _SQUARE,
    ("module.py", "(aligned - labels).abs()", "-2  ->  2"): _FOUR,
    (
        "module.py",
        "norms.square().sum()",
        "loss.double() + norms.square().sum()  ->  loss.double() - norms.square().sum()",
    ): "asked is only whether it is finite",
    ("module.py", "transfer_batch_to_device", "0  ->  1"): "nobody asks for the loader's number",
    (
        "module.py",
        "max(done",
        "max(done, self.seconds / (60 * self.config.max_minutes))  ->  "
        "max(self.seconds / (60 * self.config.max_minutes), done)",
    ): _SYMMETRIC,
    (
        "module.py",
        "factor *= min(",
        "min(1.0, (step + 1) / self.config.warmup_steps)  ->  min((step + 1) / self.config.warmup_steps, 1.0)",
    ): _SYMMETRIC,
    ("module.py", "min(done, 1.0)", "min(done, 1.0)  ->  min(1.0, done)"): _SYMMETRIC,
    ("module.py", "torch.rot90(patches", "-2  ->  2"): _FOUR,
    ("module.py", "moved.roll(", "-2  ->  2"): _FOUR,
    ("module.py", "overlap = (power * labels", "-2  ->  2"): _FOUR,
    (
        "module.py",
        "amplitude_mae(",
        "amplitude_mae(predicted, x, self.mask)  ->  amplitude_mae(x, predicted, self.mask)",
    ): _SYMMETRIC,
    ("phases.py", "_SWEEPS = 100", "100  ->  101"): _PLENTY,
    ("phases.py", "np.abs(new - z)", "new - z  ->  new + z"): _PLENTY,
    ("phases.py", "np.abs(new - z)", "new - z  ->  new"): _PLENTY,
    ("phases.py", "change < _TOLERANCE", "change < _TOLERANCE  ->  change <= _TOLERANCE"): _PLENTY,
    ("phases.py", "cost = coo_array", "2  ->  3"): _ORDER,
    ("phases.py", "cost = coo_array", "1  ->  2"): _ORDER,
    (
        "phases.py",
        "cost = coo_array",
        "strength[i, j] / strength.max(initial=1)  ->  strength[i, j] * strength.max(initial=1)",
    ): _ORDER,
    (
        "phases.py",
        "cost = coo_array",
        "strength[i, j] / strength.max(initial=1)  ->  strength[i, j]",
    ): _ORDER,
    ("phases.py", "graph = coo_array((1 / size", "1  ->  2"): _ORDER,
    ("phases.py", "directed=False", "False  ->  True"): "weakly connected is connected",
    ("stitching.py", "_PART = ", "512  ->  513"): _EXPERIENCE,
    ("stitching.py", "_SNAP = ", "20  ->  21"): _EXPERIENCE,
    (
        "stitching.py",
        ".reshape(-1, 2)",
        "1  ->  2",
    ): _ANY_NEGATIVE,
    ("stitching.py", "reshape(-1, size, size).to", "1  ->  2"): _ANY_NEGATIVE,
    ("stitching.py", "known = weight > _FLOOR", "weight > _FLOOR  ->  weight >= _FLOOR"): _EXACTLY,
    ("stitching.py", "scale = torch.where", "1  ->  2"): "where nothing is known, and not used",
    (
        "stitching.py",
        "if self._agreed < ",
        "self._agreed < _AGREEING * self._compared  ->  self._agreed <= _AGREEING * self._compared",
    ): _EXACTLY,
    ("stitching.py", "(turns != 1).any()", "1  ->  2"): _SHORTCUT,
    (
        "stitching.py",
        "overlap = ",
        "own.square().sum((1, 2)).clamp_min(1e-30)  ->  own.square().sum((1, 2))",
    ): _DARK,
    ("stitching.py", "overlap = ", "1e-30  ->  1e-27"): _DARK,
    ("stitching.py", "return 2 if self.size >= 32", "32  ->  33"): _SHORTCUT,
    ("stitching.py", "return 2 if self.size >= 32", "2  ->  3"): _SHORTCUT,
    ("stitching.py", "good = ", "values[3] >= _OVERLAP  ->  values[3] > _OVERLAP"): _EXACTLY,
    (
        "stitching.py",
        "good = ",
        "np.abs(complex_) >= _COHERENCE * bounds  ->  np.abs(complex_) > _COHERENCE * bounds",
    ): _EXACTLY,
    (
        "stitching.py",
        "return np.clip(full",
        "np.clip(full / full[size - 1, size - 1], 0, None)  ->  np.clip(0, full / full[size - 1, size - 1], None)",
    ): _SYMMETRIC,
    (
        "stitching.py",
        "clipped = ",
        "np.clip(shift, 1 - size, size - 1)  ->  np.clip(1 - size, shift, size - 1)",
    ): _SYMMETRIC,
    ("stitching.py", "near = ", "np.abs(shift) < size  ->  np.abs(shift) <= size"): (
        "patches side by side have no pixel in common, so they are not believed"
    ),
    (
        "stitching.py",
        "settled = ",
        "self._agreed >= _AGREEING * self._compared  ->  self._agreed > _AGREEING * self._compared",
    ): _EXACTLY,
    ("stitching.py", "self.size >= 32", "self.size >= 32  ->  self.size > 32"): _SHORTCUT,
    ("metrics.py", "np.vdot(r, o)", "np.vdot(r, o)  ->  np.vdot(o, r)"): "its modulus is taken",
    (
        "metrics.py",
        "structural_similarity(",
        "structural_similarity(image, reference, win_size=_WINDOW, data_range=data_range, full=True)  ->  "
        "structural_similarity(reference, image, win_size=_WINDOW, data_range=data_range, full=True)",
    ): _SYMMETRIC,
    ("metrics.py", "_similarity(", "_similarity(first, second)  ->  _similarity(second, first)"): _SYMMETRIC,
    ("metrics.py", "max(factor", "max(factor, 0.0)  ->  max(0.0, factor)"): _SYMMETRIC,
    (
        "metrics.py",
        "spread = ",
        "(local(first ** 2) - one ** 2).clip(0)  ->  local(first ** 2) - one ** 2",
    ): _ROUNDING,
    (
        "metrics.py",
        "spread = ",
        "(local(second ** 2) - two ** 2).clip(0)  ->  local(second ** 2) - two ** 2",
    ): _ROUNDING,
    ("frc.py", "_NEAR = ", "3  ->  4"): _EXPERIENCE,
    ("frc.py", "_NEAR = ", "-3  ->  3"): _EITHER_SIDE,
    ("frc.py", "_NEAR = ", "-2  ->  2"): _EITHER_SIDE,
    ("frc.py", "_NEAR = ", "-1  ->  1"): _EITHER_SIDE,
    (
        "frc.py",
        "np.convolve(",
        "np.convolve(np.pad(v, rings // 2), kernel, mode='valid')  ->  "
        "np.convolve(kernel, np.pad(v, rings // 2), mode='valid')",
    ): _SYMMETRIC,
    ("frc.py", "chance = 1", "np.maximum(pixels, 1)  ->  np.maximum(1, pixels)"): _SYMMETRIC,
    ("frc.py", "size = min(", "min(height, width)  ->  min(width, height)"): _SYMMETRIC,
    (
        "frc.py",
        "radius = np.hypot(",
        "np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])  ->  "
        "np.hypot(np.fft.fftfreq(width)[None, :], np.fft.fftfreq(height)[:, None])",
    ): _SYMMETRIC,
    (
        "frc.py",
        "ring = np.minimum(",
        "np.minimum(np.rint(radius * 2 * total).astype(np.int64), total + 1)  ->  "
        "np.minimum(total + 1, np.rint(radius * 2 * total).astype(np.int64))",
    ): _SYMMETRIC,
    (
        "frc.py",
        "distance = np.minimum(",
        "np.minimum(np.arange(count), np.arange(count)[::-1])  ->  "
        "np.minimum(np.arange(count)[::-1], np.arange(count))",
    ): _SYMMETRIC,
    (
        "frc.py",
        "return 0.5 - 0.5",
        "np.minimum(1, 2 * distance / taper)  ->  np.minimum(2 * distance / taper, 1)",
    ): _SYMMETRIC,
    (
        "frc.py",
        "hold = max(",
        "max(3, math.ceil(len(below) / 10))  ->  max(math.ceil(len(below) / 10), 3)",
    ): _SYMMETRIC,
    ("frc.py", "where=pairs > 0", "0  ->  1"): "a single pixel is one, either way",
    ("gauge.py", "STEPS = 40", "40  ->  41"): _PLENTY,
    ("gauge.py", "_MOST = 1 << 19", "1  ->  2"): _EXPERIENCE,
    ("gauge.py", "_MOST = 1 << 19", "19  ->  20"): _EXPERIENCE,
    ("gauge.py", "zip(values.shape, ends", "True  ->  False"): _AS_LONG,
    (
        "gauge.py",
        "fft.next_fast_len(n + n // 4",
        "n + n // 4 + 1  ->  n + n // 4",
    ): "a region and a quarter are long enough that nothing comes in from the other side",
    ("gauge.py", "fft.next_fast_len(n + n // 4", "n // 4  ->  n * 4"): _LONGER,
    ("gauge.py", "fft.next_fast_len(n + n // 4", "1  ->  2"): _LONGER,
    ("gauge.py", "np.roll(v, -1, axis)", "-1  ->  1"): "the neighbour on the other side is as good",
    (
        "gauge.py",
        "distance = [np.minimum(",
        "np.minimum(np.arange(n), n - np.arange(n))  ->  np.minimum(n - np.arange(n), np.arange(n))",
    ): _SYMMETRIC,
    ("gauge.py", "np.where(near, total, -1)", "1  ->  2"): _ANY_NEGATIVE_MARK,
    ("gauge.py", "if k <= n // 2", "k <= n // 2  ->  k < n // 2"): _NOWHERE_NEAR,
    ("gauge.py", "if k <= n // 2", "2  ->  3"): _NOWHERE_NEAR,
    ("gauge.py", "zip(found, full", "True  ->  False"): _AS_LONG,
    ("gauge.py", "fft.next_fast_len(2 * n)", "2  ->  3"): _LONGER,
    (
        "gauge.py",
        "reach = max(4",
        "max(4, min(rows.stop - rows.start, columns.stop - columns.start) // 8)  ->  "
        "max(min(rows.stop - rows.start, columns.stop - columns.start) // 8, 4)",
    ): _SYMMETRIC,
    (
        "gauge.py",
        "reach = max(4",
        "min(rows.stop - rows.start, columns.stop - columns.start)  ->  "
        "min(columns.stop - columns.start, rows.stop - rows.start)",
    ): _SYMMETRIC,
    (
        "gauge.py",
        "np.clip(depth / (reach + 1), 0, 1)",
        "np.clip(depth / (reach + 1), 0, 1)  ->  np.clip(0, depth / (reach + 1), 1)",
    ): _SYMMETRIC,
    ("gauge.py", "at[:: max(1", "max(1, len(at) // _MOST)  ->  max(len(at) // _MOST, 1)"): _SYMMETRIC,
    (
        "gauge.py",
        "x, y = columns - ",
        "columns - columns.mean()  ->  columns + columns.mean()",
    ): _COMMON_PHASE,
    ("gauge.py", "x, y = columns - ", "columns - columns.mean()  ->  columns"): _COMMON_PHASE,
    ("gauge.py", "x, y = columns - ", "rows - rows.mean()  ->  rows + rows.mean()"): _COMMON_PHASE,
    ("gauge.py", "x, y = columns - ", "rows - rows.mean()  ->  rows"): _COMMON_PHASE,
    ("gauge.py", "reach = np.array(", "np.ptp(x) + 1  ->  np.ptp(x) - 1"): _PLENTY,
    ("gauge.py", "reach = np.array(", "np.ptp(x) + 1  ->  np.ptp(x)"): _PLENTY,
    ("gauge.py", "reach = np.array(", "np.ptp(y) + 1  ->  np.ptp(y) - 1"): _PLENTY,
    ("gauge.py", "reach = np.array(", "np.ptp(y) + 1  ->  np.ptp(y)"): _PLENTY,
    ("gauge.py", "reach = np.array(", "1  ->  2"): _PLENTY,
    ("gauge.py", "change = solved(", "o - m  ->  o + m"): _IN_THE_SPAN,
    ("gauge.py", "change = solved(", "o - m  ->  o"): _IN_THE_SPAN,
    (
        "gauge.py",
        "while np.abs(",
        "np.abs(step * reach).max() > _PRECISE  ->  np.abs(step * reach).max() >= _PRECISE",
    ): _EXACTLY,
    ("gauge.py", "while np.abs(", "step * reach  ->  step / reach"): _PLENTY,
    ("gauge.py", "while np.abs(", "step * reach  ->  step"): _PLENTY,
    ("gauge.py", "if tried >= best", "tried >= best  ->  tried > best"): _PLENTY,
    ("gauge.py", "step /= 2", "2  ->  3"): _EXPERIENCE,
    (
        "gauge.py",
        "if np.abs(step * reach)",
        "np.abs(step * reach).max() <= _PRECISE  ->  np.abs(step * reach).max() < _PRECISE",
    ): _EXACTLY,
    ("gauge.py", "if np.abs(step * reach)", "step * reach  ->  step / reach"): _PLENTY,
    ("gauge.py", "if np.abs(step * reach)", "step * reach  ->  step"): _PLENTY,
    (
        "gauge.py",
        "normal[i, j] = ",
        "_inner(columns[i], columns[j])  ->  _inner(columns[j], columns[i])",
    ): _SYMMETRIC,
    ("gauge.py", "right = np.array(", "_inner(column, rest)  ->  _inner(rest, column)"): _SYMMETRIC,
    (
        "projection.py",
        _GRAD,
        f"{_GRAD}  ->  not torch.is_grad_enabled() and (not wave.requires_grad)",
    ): _SHORTCUT,
}
"""Changes of nothing that anyone may rely on: (file name, part of its line, change as listed), and why."""

_MODULE = "ptycho_torch/training/module.py"
_ADAPT = "ptycho_torch/training/adapt.py"
_LEARNING, _SCHEDULE = "tests/torch/training/test_learning.py", "tests/torch/training/test_schedule.py"
_OFFSETS = (
    "shifts = offsets[:, :, 0]\n",
    f"{_LEARNING}::test_the_truth_costs_nothing_and_the_truth_elsewhere_does",
)
_RATES = "tests/torch/training/test_adapt.py::test_rates_rise_then_fall_to_nothing_and_gradients_are_clipped"
NAMED: dict[str, tuple[str, str, str, str]] = {
    "merge offsets negated": (_MODULE, _OFFSETS[0], "shifts = -offsets[:, :, 0]\n", _OFFSETS[1]),
    "x and y swapped": (_MODULE, _OFFSETS[0], "shifts = offsets[:, :, 0].flip(-1)\n", _OFFSETS[1]),
    "probe rate times 1000": (
        _MODULE, "probe_learning_rate * self.probe_peak", "probe_learning_rate * 1000 * self.probe_peak",
        f"{_SCHEDULE}::test_the_probe_moves_by_its_own_rate",
    ),
    "equivariance term zero": (
        _MODULE, "+ config.equivariance_weight * self", "+ 0 * config.equivariance_weight * self",
        f"{_LEARNING}::test_equivariance_moves_the_weights",
    ),
    "no decay": (
        _MODULE, "0.5 * (1 + math.cos(math.pi * progress)) if step else 1.0", "1.0",
        f"{_SCHEDULE}::test_rates_rise_then_fall_to_nothing",
    ),
    "no warm-up": (
        _MODULE, "if self.config.warmup_steps:", "if False:",
        f"{_SCHEDULE}::test_the_first_of_many_steps_is_a_small_one",
    ),
    "no clipping": (
        "ptycho_torch/training/run.py", "gradient_clip_val=config.gradient_clip or None",
        "gradient_clip_val=None", f"{_SCHEDULE}::test_gradients_are_clipped",
    ),
    "adaptation without decay": (_ADAPT, " * 0.5 * (1 + math.cos(math.pi * progress))", "", _RATES),
    "adaptation without warm-up": (_ADAPT, "learning_rate * rise", "learning_rate", _RATES),
    "adaptation without clipping": (_ADAPT, "self.config.gradient_clip or math.inf", "math.inf", _RATES),
}  # fmt: skip
"""Errors of training that once went unnoticed: file, text, what takes its place, and the test that has to notice."""
