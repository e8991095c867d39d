"""Stacks of mitochondria to train on: tubes that branch, crowd and fuse, with the distance to their surface as truth.

    ellipsoidal cells  ->  tubes grow in them  ->  light of every voxel  ->  microscope: tail, halo,  ->  planes, noise,
    or none                or along their skin     and signed distance       planes further apart         a cut-out

`chunkflow.synth.phantoms` draws networks whose graph is known by design and which keep clear of each other. Real
mitochondria do not keep clear. Here tubes come as near as `gap_um`, some fuse, some clump, some are fragments, and what
is known is the surface: `Stack.distance`, in voxels, from which any label follows (`outline`). The length of the
centrelines is known too, clumps and caps left out.

Everything that varies is drawn from `Ranges`, evenly or evenly in the logarithm. A stack of 96 x 128 x 128 voxels takes
half a second. Samples are compared with all others of a stack, so it ends at some millimetres of tube.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import exp, inf, isfinite, pi

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import UsageError
from chunkflow.kernels.psf import FWHM_PER_SIGMA
from chunkflow.synth.crowds import REACH_VOX, VOXEL_UM, Cells, draw_cells, draw_tubes, grow_tubes
from chunkflow.synth.stray import stray_psf, through

Float = NDArray[np.float64]
Image = NDArray[np.float32]
Pair = tuple[float, float]
Triple = tuple[int, int, int]

SHAPE: Triple = (96, 128, 128)
LEAST = dict.fromkeys(("tail", "halo", "stray", "cytoplasm", "read_noise", "background", "gap_um"), 0.0) | {
    "tail_shift_um": -inf
}
"""Of ranges that need not be positive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Between what a stack's numbers are drawn; probabilities are single numbers.

    Raises
    ------
    UsageError : a range is not in order, or a probability is none.
    """

    radius_um: Pair = (0.10, 0.22)
    """Of a tube, to its surface; it varies by 5 % along it."""
    photons: Pair = (20.0, 1000.0)
    """Expected count above background at the 95th percentile of the tubes' voxels, in an acquired voxel; evenly in the
    logarithm."""
    intensity_factor: Pair = (1.0, 6.0)
    """Brightest network over dimmest."""
    density: Pair = (0.03, 0.4)
    """um of tube per um^3 of the cells, or of the stack where there are none."""
    gap_um: Pair = (0.1, 0.6)
    """Between the surfaces of tubes that do not fuse."""
    branch_probability: float = 0.45
    clump_probability: float = 0.15
    """Of a tube to have a thick part."""
    cell_probability: float = 0.6
    """Of a stack to hold ellipsoidal cells rather than tubes throughout."""
    cortical_probability: float = 0.7
    """Of a cell to have its tubes along its skin, as budding yeast does."""
    cutout_probability: float = 0.4
    """Of a stack to be cut out along a polygon, with noise painted around it."""
    sigma_lateral_um: Pair = (0.09, 0.11)
    """Of the Gaussian core of the PSF."""
    sigma_axial_um: Pair = (0.27, 0.33)
    tail: Pair = (0.0, 0.05)
    """Share of the light in an axial tail."""
    tail_spread: Pair = (1.0, 1.0)
    """1 is a tail 2.2 times as long as the core and 1.3 times as wide."""
    tail_shift_um: Pair = (0.0, 0.0)
    """How far along z the tail's middle lies from the core's, as it does where refractive indices differ."""
    halo: Pair = (0.0, 0.05)
    """Share of the light in a wide halo."""
    stray_probability: float = 0.0
    """Of a stack to have light of an aberrated PSF, which draws rings and ghosts beside bright tubes."""
    stray: Pair = (0.1, 0.9)
    """Share of it in what is seen, at most 1."""
    step_z_um: Pair = (0.056, 0.3)
    """Distance of the acquired planes; the stack is brought back to cubic voxels by linear interpolation."""
    background: Pair = (0.02, 0.3)
    """Over the light of the tubes, as `photons` measures it."""
    cytoplasm: Pair = (0.0, 0.06)
    """Evenly spread light of a cell, over that of the tubes."""
    read_noise: Pair = (0.005, 0.03)
    """Standard deviation over the light of the tubes."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_probability"):
                if not 0 <= value <= 1:
                    raise UsageError(f"{field.name} is {value}", "Give a number from 0 to 1")
                continue
            least, most = LEAST.get(field.name, 1e-9), 1.0 if field.name == "stray" else inf
            if len(value) != 2 or not (least <= value[0] <= value[1] <= most and all(map(isfinite, value))):
                raise UsageError(f"{field.name} {value} is no range", "Give the smallest and the largest, in order")


_HELD_OUT = Ranges(density=(0.08, 0.4), intensity_factor=(5.0, 5.0), background=(0.02, 0.12), cytoplasm=(0.0, 0.03))
ORDINARY = replace(_HELD_OUT, radius_um=(0.15, 0.22), photons=(100.0, 1000.0))
HARDER = replace(_HELD_OUT, radius_um=(0.10, 0.20), photons=(20.0, 400.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """An image of cubic voxels of `VOXEL_UM`, and the truth about it."""

    image: Image
    """(Z, Y, X) counts."""
    distance: Image
    """(Z, Y, X) voxels from the surface of the tubes, negative inside, at most `REACH_VOX`. Inside it is that of the
    nearest tube's capsule, which where tubes fuse is less deep than the distance to the surface of all."""
    length_um: float
    """Of the centrelines inside the stack, fragments included, clumps not."""
    fwhm_um: tuple[float, float, float]
    """Full widths at half maximum of the PSF's Gaussian core, z, y, x: what is known of a microscope. Of tail, halo and
    stray light they say nothing."""

    def outline(self, grown_vox: float = 0.0) -> NDArray[np.bool_]:
        """(Z, Y, X) bool: voxels whose centre is inside the tubes, grown by that many voxels."""
        return np.asarray(self.distance <= grown_vox)


def mitochondria_stack(seed: int, ranges: Ranges | None = None, shape: Triple = SHAPE) -> Stack:
    """Draw a stack; the same seed, ranges and shape draw the same.

    Raises
    ------
    UsageError : a negative seed, or a shape under 16 voxels.
    """
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", "Give 0 or more")
    if len(shape) != 3 or min(shape) < 16:
        raise UsageError(f"shape {shape} is too small for mitochondria", "Give at least 16 voxels along z, y, x")
    given = Ranges() if ranges is None else ranges
    rng = np.random.default_rng(seed)
    cells = draw_cells(rng, given, shape)
    tubes = grow_tubes(rng, given, shape, cells)
    light, distance = draw_tubes(tubes, rng.uniform(*given.intensity_factor), shape)
    seen, fwhm_um = _blurred(light, rng, given)
    cut = _cut(rng, given, shape)
    image = _acquired(seen, distance <= 0, cells, cut, rng, given)
    distance[:, cut] = REACH_VOX
    return Stack(image=image, distance=distance, length_um=tubes.length_um(cut, shape), fwhm_um=fwhm_um)


def _blurred(light: Image, rng: np.random.Generator, ranges: Ranges) -> tuple[Image, tuple[float, float, float]]:
    """Through a Gaussian core, an axial tail and a wide halo, which share the light, mixed with an aberrated PSF; and
    the core's full widths at half maximum, um."""
    lateral = rng.uniform(*ranges.sigma_lateral_um) / VOXEL_UM
    axial = rng.uniform(*ranges.sigma_axial_um) / VOXEL_UM
    tail, halo = rng.uniform(*ranges.tail), rng.uniform(*ranges.halo)
    (shape,) = rng.spawn(1)
    spread, shift = shape.uniform(*ranges.tail_spread), shape.uniform(*ranges.tail_shift_um) / VOXEL_UM
    stray = shape.uniform(*ranges.stray) if shape.random() < ranges.stray_probability else 0.0
    core = _gaussian(light, axial, lateral)
    seen = (1 - tail - halo) * core
    # wider ones from the core: variances of Gaussians add
    long = _gaussian(core, 2.0 * spread * axial, 0.8 * spread * lateral)
    seen += tail * ndimage.shift(long, (shift, 0, 0), order=1, mode="nearest")
    seen += halo * _gaussian(core, 2.0 * axial, 5.0 * lateral)
    if stray:
        seen = (1 - stray) * seen + stray * through(stray_psf(shape, VOXEL_UM), light)
    wide = lateral * VOXEL_UM * FWHM_PER_SIGMA
    return np.asarray(seen, np.float32), (axial * VOXEL_UM * FWHM_PER_SIGMA, wide, wide)


def _gaussian(image: Image, axial: float, lateral: float) -> Image:
    return np.asarray(ndimage.gaussian_filter(image, (axial, lateral, lateral), mode="nearest", truncate=3.0))


def _acquired(
    seen: Image,
    inside: NDArray[np.bool_],
    cells: Cells,
    cut: NDArray[np.bool_],
    rng: np.random.Generator,
    ranges: Ranges,
) -> Image:
    """Planes a step apart, with background and noise, cut out, and brought back to cubic voxels."""
    photons = exp(rng.uniform(*np.log(ranges.photons)))
    bright = float(np.percentile(seen[inside], 95)) if inside.any() else 1.0
    light = seen * (photons / bright)
    background = photons * rng.uniform(*ranges.background)
    cytoplasm = photons * rng.uniform(*ranges.cytoplasm)
    if not cells.is_endless(0):
        light += cytoplasm * _gaussian(cells.inside(seen.shape).astype(np.float32), 4.0, 2.0)
    down, up = _planes(seen.shape[0], rng.uniform(*ranges.step_z_um) / VOXEL_UM)
    planes = np.einsum("pz,zyx->pyx", down, light)
    planes += background * (1 + 0.03 * rng.standard_normal((len(planes), 1, 1)))
    read = photons * rng.uniform(*ranges.read_noise)
    counts = rng.poisson(np.maximum(planes, 0)) + read * rng.standard_normal(planes.shape)
    if cut.any():
        level = background * rng.uniform(0.9, 1.1) * (1 + 0.03 * rng.standard_normal((len(planes), 1, 1)))
        noise = np.hypot(read, background**0.5) * rng.uniform(0.5, 1.2)
        counts = np.where(cut, level + noise * rng.standard_normal(planes.shape), counts)
    return np.asarray(np.einsum("zp,pyx->zyx", up, counts), np.float32)


def _planes(depth: int, step: float) -> tuple[Image, Image]:
    """(planes, depth) what takes planes from voxels, and (depth, planes) what brings voxels back, both linear."""
    step = min(max(step, 1.0), (depth - 1) / 2)
    at = np.arange(0, depth - 1 + step, step)
    return _linear(np.minimum(at, depth - 1), depth), _linear(np.arange(depth) / step, len(at))


def _linear(at: Float, count: int) -> Image:
    low = np.clip(np.floor(at).astype(np.int64), 0, count - 2)
    weight = np.clip(at - low, 0, 1)
    matrix = np.zeros((len(at), count), np.float32)
    rows = np.arange(len(at))
    matrix[rows, low] = 1 - weight
    matrix[rows, low + 1] = weight
    return matrix


def _cut(rng: np.random.Generator, ranges: Ranges, shape: Triple) -> NDArray[np.bool_]:
    """(Y, X) bool: what is cut away, outside of an intersection of half planes around the middle; often nothing."""
    _, height, width = shape
    y, x = np.ogrid[:height, :width]
    away = np.zeros((height, width), np.bool_)
    if rng.random() < ranges.cutout_probability:
        for angle in rng.uniform(0, 2 * pi, int(rng.integers(4, 8))):
            along = (y - height / 2) * np.sin(angle) + (x - width / 2) * np.cos(angle)
            away |= along > rng.uniform(0.3, 0.6) * min(height, width)
    return away
