"""Augmentations that matter in microscopy: the same specimen as it might have lain, been lit and been recorded.

    Geometry, alike for image and labels          Look, of the image alone, in units of its normalisation
    flip, turn   order of voxels, exact           blur, intensity (gain, offset, gamma), noise (Poisson, Gaussian),
    elastic      one smooth field and a scale;    missing slices
                 linear for images, nearest
                 for labels

A geometry is drawn before anything is read, so that a patch is read exactly as large as it is needed. Every draw has a
generator of its own, keyed by (seed, number of the sample, which draw): a sample is the same whatever came before it,
so that a training goes on exactly where it stopped, and leaving one augmentation out changes no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor, isfinite
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import ConfigError

Float: TypeAlias = NDArray[np.float32]
Triple: TypeAlias = tuple[int, int, int]
MicrometerTriple: TypeAlias = tuple[float, float, float]
Range: TypeAlias = tuple[float, float]

BLUR_TRUNCATE = 3.0
"""Half length of the blur's taps in standard deviations."""
MANY = np.float32(1e14)
"""Photons in a voxel beyond which their noise is lost in float32."""
STREAMS = ("place", "flip", "turn", "elastic", "blur", "intensity", "noise", "missing")
"""What is drawn for a sample, each from a generator of its own."""
MOST_DEVIATIONS = 2.0
"""Draws of the elastic field are cut at so many standard deviations: what has to be read has an end."""


def generator(seed: int, sample: int, stream: str, channel: int = 0) -> Generator:
    """The generator of one draw of one sample (Philox, Salmon et al. 2011, doi:10.1145/2063384.2063405)."""
    key = np.array([seed, sample], np.uint64)
    return Generator(Philox(key=key, counter=[0, 0, channel, STREAMS.index(stream)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Mirror each of the axes with a probability."""

    probability: float = 0.5
    axes: str = "zyx"

    def __post_init__(self) -> None:
        _check_probability("flip", self.probability)
        if not self.axes or not set(self.axes) <= set("zyx"):
            raise ConfigError(f"augment: flip: axes {self.axes!r}", "Name some of z, y, x, as in zyx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Right-angle turns: in the plane, and about all axes where voxels are cubes and the patch is one."""

    probability: float = 0.75

    def __post_init__(self) -> None:
        _check_probability("turn", self.probability)


@dataclass(frozen=True, slots=True, kw_only=True)
class Elastic:
    """A smooth displacement and a scale."""

    probability: float = 0.2

    amplitude: float = 2.0
    """Largest displacement, in units of the smallest side of a voxel."""

    spacing: float = 16.0
    """Between the random vectors that a cubic B-spline joins, in the same units."""

    scale: Range = (0.9, 1.1)
    """Objects become this much larger."""

    def __post_init__(self) -> None:
        _check_probability("elastic", self.probability)
        _check_range("elastic: scale", self.scale, above=0)
        if not 0 <= self.amplitude <= self.spacing / 4:
            raise ConfigError(
                f"augment: elastic: amplitude {self.amplitude} with a spacing of {self.spacing} would fold the image",
                "Keep it at most a quarter of the spacing",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Blur:
    """A Gaussian out of focus, the same along all axes in voxels."""

    probability: float = 0.15
    sigma_vox: Range = (0.3, 1.0)

    def __post_init__(self) -> None:
        _check_probability("blur", self.probability)
        _check_range("blur: sigma_vox", self.sigma_vox, above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensity:
    """sign(v) |v|^gamma * gain + offset, where v = 1 is the upper end of the normalisation."""

    probability: float = 0.5

    gain: Range = (0.7, 1.4)
    """Drawn evenly in its logarithm."""

    offset: Range = (-0.05, 0.05)
    gamma: Range = (0.85, 1.2)

    def __post_init__(self) -> None:
        _check_probability("intensity", self.probability)
        _check_range("intensity: gain", self.gain, above=0)
        _check_range("intensity: offset", self.offset)
        _check_range("intensity: gamma", self.gamma, above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Photon noise as if v = 1 were so many photons, and Gaussian read noise."""

    probability: float = 0.3

    photons: Range | None = (50.0, 2000.0)
    """Drawn evenly in the logarithm; null for none."""

    sigma: Range = (0.0, 0.04)
    """Standard deviation of the read noise."""

    def __post_init__(self) -> None:
        _check_probability("noise", self.probability)
        _check_range("noise: sigma", self.sigma, at_least=0)
        if self.photons is not None:
            _check_range("noise: photons", self.photons, above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Planes along z that were lost, as happens to sections in electron microscopy: they read as grey value 0."""

    probability: float = 0.05
    most: int = 2
    """1 to so many planes of a patch."""

    def __post_init__(self) -> None:
        _check_probability("missing", self.probability)
        if self.most < 1:
            raise ConfigError(f"augment: missing: most {self.most}", "Give 1 or more, or missing: null")


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """What is done to patches; None is off.

    The defaults suit fluorescence; missing slices are for sections.
    """

    flip: Flip | None = field(default_factory=Flip)
    turn: Turn | None = field(default_factory=Turn)
    elastic: Elastic | None = field(default_factory=Elastic)
    blur: Blur | None = field(default_factory=Blur)
    intensity: Intensity | None = field(default_factory=Intensity)
    noise: Noise | None = field(default_factory=Noise)
    missing: Missing | None = None

    @classmethod
    def none(cls) -> Augment:
        """Patches as they are."""
        return cls(flip=None, turn=None, elastic=None, blur=None, intensity=None, noise=None)

    @property
    def reach_vox(self) -> int:
        """Voxels around a patch that its blurred values follow from."""
        return 0 if self.blur is None else ceil(BLUR_TRUNCATE * self.blur.sigma_vox[1])

    def geometry(self, seed: int, sample: int, shape: Triple, voxel_um: MicrometerTriple) -> Geometry:
        """Draw how a sample of this shape lies. voxel_um : which axes may change places, and how the field scales."""
        flips: list[int] = []
        if self.flip is not None:
            drawn = generator(seed, sample, "flip").random(3) < self.flip.probability
            flips = [axis for axis in range(3) if drawn[axis] and "zyx"[axis] in self.flip.axes]
        turns: list[tuple[int, int, int]] = []
        if self.turn is not None:
            turns = _turns(self.turn, generator(seed, sample, "turn"), shape, voxel_um)
        source = None
        if self.elastic is not None:
            rng = generator(seed, sample, "elastic")
            if rng.random() < self.elastic.probability:
                source = _source(self.elastic, rng, shape, voxel_um)
        return Geometry(shape, tuple(flips), tuple(turns), source)

    def look(self, image: Float, seed: int, sample: int, *, channel: int = 0, dark: float = 0.0) -> Float:
        """Change how a channel looks; (Z, Y, X) float32 of normalised values -> the same. dark : what grey value 0 is.

        Blur sees beyond the image by reflection, so give it with `reach_vox` around what is wanted.
        """
        if self.blur is not None:
            rng = generator(seed, sample, "blur", channel)
            if rng.random() < self.blur.probability:
                image = blurred(image, rng.uniform(*self.blur.sigma_vox))
        if self.intensity is not None:
            image = _relit(self.intensity, generator(seed, sample, "intensity", channel), image)
        if self.noise is not None:
            image = _noisy(self.noise, generator(seed, sample, "noise", channel), image)
        if self.missing is not None:
            image = _without_slices(self.missing, generator(seed, sample, "missing", channel), image, dark)
        return image


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """How a sample lies: where its voxels come from, then mirrored axes, then turns.

    shape : of the sample
    flips : axes that are mirrored
    turns : (axis, axis, quarter turns), one after the other; they keep the shape
    source : (3, *shape) float32, where each voxel comes from, in voxels from the first of the sample; None for itself
    """

    shape: Triple
    flips: tuple[int, ...] = ()
    turns: tuple[tuple[int, int, int], ...] = ()
    source: Float | None = None

    @property
    def box(self) -> tuple[Triple, Triple]:
        """First voxel and the one after the last that the sample is made of, relative to its own first voxel."""
        if self.source is None:
            return (0, 0, 0), self.shape
        axes = self.source.reshape(3, -1)
        low = [floor(v) for v in axes.min(axis=1)]
        high = [ceil(v) + 1 for v in axes.max(axis=1)]
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def image(self, voxels: NDArray[Any]) -> Float:
        """An image (the voxels of `box`) as the sample shows it, by linear interpolation; float32."""
        voxels = np.asarray(voxels, np.float32)
        return self._placed(voxels if self.source is None else _linear(voxels, self._inside()))

    def labels(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Labels (of `box`) as the sample shows them, each from its nearest voxel; of their own type."""
        if self.source is not None:
            at = np.rint(self._inside()).astype(np.intp)
            voxels = voxels[at[0], at[1], at[2]]
        return self._placed(voxels)

    def _inside(self) -> Float:
        assert self.source is not None
        first = np.array(self.box[0], np.float32)
        return self.source - first[:, None, None, None]

    def _placed(self, voxels: NDArray[Any]) -> NDArray[Any]:
        for axis in self.flips:
            voxels = np.flip(voxels, axis)
        for first, second, quarters in self.turns:
            voxels = np.rot90(voxels, quarters, (first, second))
        return np.ascontiguousarray(voxels)


def _linear(voxels: Float, at: Float) -> Float:
    result: Float = ndimage.map_coordinates(voxels, at, order=1, mode="nearest", prefilter=False, output=np.float32)
    return result


def _turns(turn: Turn, rng: Generator, shape: Triple, voxel_um: MicrometerTriple) -> list[tuple[int, int, int]]:
    """A turn in the plane, and after it another about an axis in the plane, where shape and voxels allow it."""
    chance, quarters, other, tilts = rng.random(), int(rng.integers(1, 4)), int(rng.integers(2)), int(rng.integers(4))
    if chance >= turn.probability:
        return []
    found = []
    if _alike(shape, voxel_um, 1, 2):
        found.append((1, 2, quarters))
    elif min(shape[1:]) > 1:
        found.append((1, 2, 2))  # a half turn keeps any shape
    if _alike(shape, voxel_um, 0, 1) and _alike(shape, voxel_um, 0, 2) and tilts:
        found.append((0, 1 + other, tilts))
    return found


def _alike(shape: Triple, voxel_um: MicrometerTriple, a: int, b: int) -> bool:
    return shape[a] == shape[b] and abs(voxel_um[a] - voxel_um[b]) <= 0.01 * voxel_um[a]


def _source(elastic: Elastic, rng: Generator, shape: Triple, voxel_um: MicrometerTriple) -> Float:
    """Where the voxels of a sample come from: scaled about its centre, and displaced by a cubic B-spline.

    A B-spline lies inside the hull of its coefficients, so that no displacement exceeds the amplitude.
    """
    scale = np.float32(rng.uniform(*elastic.scale))
    unit = [min(voxel_um) / v for v in voxel_um]
    bases = [_spline(n, max(1.0, elastic.spacing * u)) for n, u in zip(shape, unit, strict=True)]
    vectors = rng.standard_normal((3, *(basis.shape[1] for basis in bases)), np.float32)
    vectors = np.clip(vectors / MOST_DEVIATIONS, -1, 1)
    source = np.empty((3, *shape), np.float32)
    for axis in range(3):
        line = np.arange(shape[axis], dtype=np.float32)
        centre = (shape[axis] - 1) / 2
        place = ((line - centre) / scale + centre).reshape([-1 if a == axis else 1 for a in range(3)])
        source[axis] = place
        if shape[axis] > 1:
            bent = np.einsum("abc,za,yb,xc->zyx", vectors[axis], *bases, optimize=True)
            source[axis] += np.float32(elastic.amplitude * unit[axis]) * bent
    return source


def _spline(length: int, spacing: float) -> Float:
    """(length, knots) weights of the cubic B-spline coefficients for each voxel of an axis; rows sum to 1."""
    at = np.arange(length) / spacing
    first = np.floor(at).astype(np.intp)
    t = at - first
    weights = np.zeros((length, int(first[-1]) + 4), np.float32)
    cubics = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, cubic in enumerate(cubics):
        weights[np.arange(length), first + k] = cubic / 6
    return weights


def blurred(image: Float, sigma_vox: float) -> Float:
    """A Gaussian along every axis that is longer than one voxel."""
    sigma = [sigma_vox if n > 1 else 0.0 for n in image.shape]
    result: Float = ndimage.gaussian_filter(image, sigma, mode="mirror", truncate=BLUR_TRUNCATE)
    return result


def _relit(intensity: Intensity, rng: Generator, image: Float) -> Float:
    chance = rng.random()
    gain = np.exp(rng.uniform(*np.log(intensity.gain)))
    offset, gamma = rng.uniform(*intensity.offset), rng.uniform(*intensity.gamma)
    if chance >= intensity.probability:
        return image
    if intensity.gamma != (1.0, 1.0):
        image = np.sign(image) * np.abs(image) ** np.float32(gamma)
    return image * np.float32(gain) + np.float32(offset)


def _noisy(noise: Noise, rng: Generator, image: Float) -> Float:
    if rng.random() >= noise.probability:
        return image
    if noise.photons is not None:
        photons = np.float32(np.exp(rng.uniform(*np.log(noise.photons))))
        expected = np.clip(image, 0, None)
        mean = expected * photons
        counts = np.where(mean < MANY, rng.poisson(np.minimum(mean, MANY)).astype(np.float32), mean)
        # What is below the zero of the normalisation has no photons; it keeps its value.
        image = image + np.asarray(counts / photons - expected, np.float32)
    sigma = np.float32(rng.uniform(*noise.sigma))
    return image + sigma * rng.standard_normal(image.shape, np.float32)


def _without_slices(missing: Missing, rng: Generator, image: Float, dark: float) -> Float:
    if rng.random() >= missing.probability or len(image) < 2:
        return image
    count = min(int(rng.integers(1, missing.most + 1)), len(image) - 1)
    image = image.copy()
    image[rng.choice(len(image), count, replace=False)] = np.float32(dark)
    return image


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"augment: {name}: probability {value} is not between 0 and 1", "Use 0.5, say")


def _check_range(name: str, values: Sequence[float], *, above: float = -np.inf, at_least: float = -np.inf) -> None:
    good = len(values) == 2 and all(map(isfinite, values)) and values[0] <= values[1]
    if not (good and values[0] > above and values[0] >= at_least):
        limit = f" above {above:g}" if above > -np.inf else f" of at least {at_least:g}" if at_least > -np.inf else ""
        raise ConfigError(f"augment: {name} {list(values)} is not a range", f"Give two numbers{limit} in order")
