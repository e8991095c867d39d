"""What a network is to learn, made of labels: one array of targets and one of weights per patch.

    kind                  channels                                             output     loss
    foreground            inside an object, softly if asked for                sigmoid    bce+dice
    classes               the class of the voxel, as one number                softmax    cross-entropy+dice
    foreground+boundary   inside an object; where it touches anything else     sigmoid    bce+dice
    distance              um to what is not the object, clipped                as it is   mse
    affinities            whether p and p + offset are one object, per offset  sigmoid    bce+dice
    image                 another image of the same place                      as it is   mse

Targets follow from the labels near a voxel, so they are made of a patch with a margin (`Target.margin_vox`) after the
patch was turned and bent, and equal those of the whole volume there. Nothing is held against the network where nobody
labelled: the weight is 0 at `ignore` and outside the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, hypot, isfinite, prod
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import ConfigError, nearest

Kind: TypeAlias = Literal["foreground", "classes", "foreground+boundary", "distance", "affinities", "image"]
Offset: TypeAlias = tuple[int, int, int]
Float: TypeAlias = NDArray[np.float32]
Known: TypeAlias = NDArray[np.bool_]

KINDS = ("foreground", "classes", "foreground+boundary", "distance", "affinities", "image")
MOST_SHIFTS = 150
"""Of a mask; from there on a distance transform takes less time."""
NEAREST_NEIGHBOURS: tuple[Offset, ...] = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to be learnt, and how it follows from the labels.

    Raises
    ------
    ConfigError : a value is unknown, out of range, or belongs to another kind.
    """

    kind: Kind = "foreground"

    ignore: int | None = None
    """Label of voxels that nobody labelled; they count for nothing."""

    classes: int = 2
    """For "classes": how many there are, background (0) included."""

    soft: bool = False
    """For "foreground": clip(0.5 - (s - grow), 0, 1) of the signed distance s to the surface instead of 0 and 1, in
    units of the smallest side of a voxel, negative inside: thin objects then weigh what they fill."""

    grow: float = 0.0
    """For "foreground": objects are learnt this much larger, in the same units. 1 keeps thin tubes connected."""

    clip_um: float = 1.0
    """For "distance": larger ones count as this."""

    signed: bool = False
    """For "distance": background has the negative distance to the nearest object instead of 0."""

    offsets: tuple[Offset, ...] = NEAREST_NEIGHBOURS
    """For "affinities": from a voxel to its partner, z, y, x."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"target kind {self.kind!r} is not known", nearest(str(self.kind), KINDS))
        if self.kind == "classes" and self.classes < 2:
            raise ConfigError(f"target: {self.classes} classes", "Count background too: 2 or more")
        if self.soft and self.kind != "foreground":
            raise ConfigError(f"target: soft belongs to foreground, not to {self.kind}", "Leave it out")
        if not (isfinite(self.grow) and (self.grow == 0 or self.kind == "foreground")):
            raise ConfigError(f"target: grow {self.grow} of {self.kind}", "Give a number, of foreground only")
        if not 0 < self.clip_um < float("inf"):
            raise ConfigError(f"target: clip_um {self.clip_um} is not a positive length", "Use 1.0, say")
        if not self.offsets or any(len(offset) != 3 or not any(offset) for offset in self.offsets):
            raise ConfigError(
                f"target: offsets {list(map(list, self.offsets))}", "Give lists of z, y, x that are not all 0"
            )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the channels of the network's output."""
        if self.kind == "classes":
            return tuple("background" if k == 0 else f"class {k}" for k in range(self.classes))
        if self.kind == "affinities":
            return tuple("affinity " + " ".join(map(str, offset)) for offset in self.offsets)
        return tuple(self.kind.split("+"))

    @property
    def activation(self) -> str:
        """What turns outputs into results."""
        return {"classes": "softmax", "distance": "none", "image": "none"}.get(self.kind, "sigmoid")

    @property
    def is_instances(self) -> bool:
        """Whether objects can be told apart by the outputs."""
        return self.kind in ("foreground+boundary", "distance", "affinities")

    def margin_vox(self, voxel_um: tuple[float, float, float]) -> tuple[int, int, int]:
        """Voxels around a patch, for z, y, x, that its targets follow from."""
        if self.kind == "foreground":
            reach = abs(self.grow) + 1 if self.grow or self.soft else 0
            sides = [ceil(reach * min(voxel_um) / v) for v in voxel_um]
        elif self.kind == "foreground+boundary":
            sides = [1, 1, 1]
        elif self.kind == "distance":
            sides = [ceil(self.clip_um / v) - 1 for v in voxel_um]
        elif self.kind == "affinities":
            sides = [max(abs(offset[axis]) for offset in self.offsets) for axis in range(3)]
        else:
            sides = [0, 0, 0]
        return sides[0], sides[1], sides[2]

    def make(
        self, labels: NDArray[Any], known: Known, voxel_um: tuple[float, float, float]
    ) -> tuple[NDArray[Any], Float]:
        """Targets and weights of a patch, its margin included (where they are not exact).

        labels : (Z, Y, X) integers with 0 as background; for "image" the other image, float32
        known : (Z, Y, X) bool, false outside the volume
        Returns (K, Z, Y, X) float32, for "classes" (1, Z, Y, X) int64, and (1 or K, Z, Y, X) float32 weights.

        Raises
        ------
        ConfigError : a label is beyond the classes.
        """
        if self.kind == "image":
            return labels[None].astype(np.float32), known[None].astype(np.float32)
        if self.ignore is not None:
            known = known & (labels != self.ignore)
            labels = np.where(known, labels, 0)
        weight = known[None].astype(np.float32)
        if self.kind == "classes":
            return _classes(labels, self.classes)[None], weight
        labels = np.where(labels > 0, labels, 0)  # what is negative is no object
        if self.kind == "affinities":
            made = [affinity(labels, known, offset) for offset in self.offsets]
            return np.stack([a for a, _ in made]), np.stack([w for _, w in made])
        if self.kind == "distance":
            return object_distance(labels, voxel_um, self.clip_um, signed=self.signed)[None], weight
        if self.kind == "foreground+boundary":
            return np.stack([labels > 0, boundaries(labels)]).astype(np.float32), weight
        inside = soft_foreground(labels > 0, voxel_um, self.grow)[None]
        return inside if self.soft else (inside >= 0.5).astype(np.float32), weight


def _classes(labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high >= classes:
        raise ConfigError(
            f"a label {low if low < 0 else high} of {classes} classes", "Raise classes, or name it as ignore"
        )
    return labels.astype(np.int64)


def soft_foreground(mask: Known, voxel_um: tuple[float, float, float], grow: float = 0.0) -> Float:
    """(Z, Y, X) float32 in 0..1: clip(0.5 - (s - grow), 0, 1) of the signed distance s to the surface of a mask.

    s is the distance between voxel centres minus half a voxel, in units of the smallest side, negative inside. With
    grow = 0 it is the mask itself; with 1 and cubic voxels, the mask and its 6 neighbours are 1, diagonal ones 0.59.
    """
    sides = [v / min(voxel_um) for v in voxel_um]
    if grow < 0:  # the background grows
        return 1 - _grown(~mask, sides, -grow)
    return _grown(mask, sides, grow)


def _grown(mask: Known, sides: list[float], grow: float) -> Float:
    """clip(1 + grow - d, 0, 1) of the distance d to the nearest voxel of the mask, in the unit of the sides.

    What is farther than grow + 1 counts for nothing, so a few shifts of the mask do for small growth, in a tenth of the
    time of a distance transform.
    """
    result = mask.astype(np.float32)
    if grow == 0 or not mask.any():
        return result
    reach = [min(ceil((1 + grow) / s), n - 1) for s, n in zip(sides, mask.shape, strict=True)]
    if prod(2 * r + 1 for r in reach) > MOST_SHIFTS:
        distance = ndimage.distance_transform_edt(~mask, sides)
        return np.asarray(np.clip(1 + grow - distance, 0, 1), np.float32)
    for offset in product(*(range(-r, r + 1) for r in reach)):
        value = np.float32(min(1.0, 1 + grow - hypot(*(o * s for o, s in zip(offset, sides, strict=True)))))
        if value > 0 and any(offset):
            here, there = _shifted(offset, mask.shape)
            np.maximum(result[here], value * mask[there], out=result[here])
    return result


def _shifted(offset: Sequence[int], shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The voxels whose partner at an offset lies inside, and the partners."""
    here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, shape, strict=True))
    there = tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, shape, strict=True))
    return here, there


def boundaries(labels: NDArray[Any]) -> Known:
    """(Z, Y, X) bool: voxels with one of 6 neighbours of another label, on either side of the boundary."""
    found = np.zeros(labels.shape, np.bool_)
    for axis in range(labels.ndim):
        before, after = _pair(labels.ndim, axis)
        differs = labels[before] != labels[after]
        found[before] |= differs
        found[after] |= differs
    return found


def _pair(axes: int, axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    whole = [slice(None)] * axes
    before, after = whole.copy(), whole.copy()
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(after)


def object_distance(
    labels: NDArray[Any], voxel_um: tuple[float, float, float], clip_um: float, *, signed: bool = False
) -> Float:
    """(Z, Y, X) float32, um: from a voxel of an object to the nearest voxel centre that is not of it, at most clip_um.

    Background is 0, or minus its distance to the nearest object where that is asked for. What is beyond the array is
    no background. Exact (Euclidean distance transforms, one per object in a box around it).
    """
    result = np.zeros(labels.shape, np.float32)
    reach = [ceil(clip_um / v) + 1 for v in voxel_um]
    numbered, count = _numbered(labels)
    for number, place in enumerate(ndimage.find_objects(numbered, count), start=1):
        if place is None:
            continue
        box = tuple(
            slice(max(0, s.start - r), min(n, s.stop + r)) for s, r, n in zip(place, reach, labels.shape, strict=True)
        )
        inside = numbered[box] == number
        result[box][inside] = _distance(inside, voxel_um, clip_um)[inside]
    if signed:
        background = numbered == 0
        result[background] = -_distance(background, voxel_um, clip_um)[background]
    return result


def _numbered(labels: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """Labels as 1..N, whatever their values."""
    values, numbered = np.unique(labels, return_inverse=True)
    numbered = numbered.reshape(labels.shape).astype(np.int32)
    return numbered + np.int32(values[0] != 0), len(values) - int(values[0] == 0)


def _distance(inside: Known, voxel_um: tuple[float, float, float], clip_um: float) -> NDArray[np.float64]:
    if inside.all():
        return np.full(inside.shape, clip_um)
    return np.asarray(np.minimum(ndimage.distance_transform_edt(inside, voxel_um), clip_um))


def affinity(labels: NDArray[Any], known: Known, offset: Offset) -> tuple[Float, Float]:
    """Whether each voxel and its partner at `offset` are of one object; both (Z, Y, X) float32: 1 or 0, and weights.

    Background has no affinity to anything. The weight is 0 where either is not known or lies outside the array.
    """
    value, weight = np.zeros(labels.shape, np.float32), np.zeros(labels.shape, np.float32)
    here, there = _shifted(offset, labels.shape)
    value[here] = (labels[here] == labels[there]) & (labels[here] > 0)
    weight[here] = known[here] & known[there]
    return value, weight
