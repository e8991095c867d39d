"""Half-open boxes of voxels, `start <= p < stop` in z, y, x: the only coordinates that modules pass around."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Self

from chunkflow.errors import UsageError

Triple = tuple[int, int, int]


def triple(value: int | tuple[int, ...] | list[int]) -> Triple:
    """An int repeated for z, y, x, or three ints as they are.

    Raises
    ------
    UsageError : if there are not three of them.
    """
    values = (value,) * 3 if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != 3:
        raise UsageError(f"{value!r} is not one value for each of z, y, x", "Give three numbers")
    return values[0], values[1], values[2]


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Voxels p with `start <= p < stop` per axis (z, y, x). May be empty, may lie outside a volume."""

    start: Triple
    stop: Triple

    @classmethod
    def of_shape(cls, shape: Triple) -> Self:
        """The box of a whole volume of that shape."""
        return cls((0, 0, 0), shape)

    @property
    def shape(self) -> Triple:
        z, y, x = (max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def size(self) -> int:
        """Number of voxels."""
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Slices that cut this box out of an array whose index 0 is coordinate 0."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def grow(self, halo: Triple) -> Box:
        """The box larger by `halo` on both sides of each axis (smaller where negative)."""
        return Box(
            triple(tuple(a - h for a, h in zip(self.start, halo, strict=True))),
            triple(tuple(b + h for b, h in zip(self.stop, halo, strict=True))),
        )

    def clip(self, other: Box) -> Box:
        """The part inside `other`."""
        start = triple(tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True)))
        stop = triple(tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True)))
        return Box(start, triple(tuple(max(a, b) for a, b in zip(start, stop, strict=True))))

    def relative_to(self, origin: Triple) -> Box:
        """The same box in coordinates whose 0 is `origin`."""
        return Box(
            triple(tuple(a - o for a, o in zip(self.start, origin, strict=True))),
            triple(tuple(b - o for b, o in zip(self.stop, origin, strict=True))),
        )

    def contains(self, other: Box) -> bool:
        """Whether every voxel of `other` is in this box."""
        return all(a <= c for a, c in zip(self.start, other.start, strict=True)) and all(
            d <= b for b, d in zip(self.stop, other.stop, strict=True)
        )

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))
