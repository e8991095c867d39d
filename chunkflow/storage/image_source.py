"""An image of any format, as far as importing it goes: what it says of itself, and planes when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import InputError
from chunkflow.geometry.scale import MicrometerTriple, um_per
from chunkflow.storage.optics import Optics

Index: TypeAlias = tuple[int | slice, ...]

IMPORT_ALONE = "import each by itself"
"""How an image gets a voxel size of its own where its format has no place for one that people can write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStyle:
    """What a file says of how one channel is shown."""

    name: str = ""
    color: str | None = None
    """RRGGBB."""
    window: tuple[float, float] | None = None
    """Values shown as black and as full colour."""


class ImageSource(Protocol):
    """Planes to import."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def axes(self) -> str:
        """`zyx`, with t and c before it where there are several."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each of `axes`."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels as `fill` gives them, native."""
        ...

    @property
    def voxel_um(self) -> MicrometerTriple | None:
        """z, y, x; None where the file does not say."""
        ...

    @property
    def voxel_source(self) -> str:
        """Where the voxel size was found, or why there is none."""
        ...

    @property
    def own_voxel_um(self) -> str:
        """How people give a file a voxel size of its own: an order, for messages."""
        ...

    @property
    def translation_um(self) -> MicrometerTriple:
        """Centre of voxel 0, z, y, x."""
        ...

    @property
    def styles(self) -> tuple[ChannelStyle, ...]:
        """Of each channel."""
        ...

    @property
    def optics(self) -> tuple[Optics, ...]:
        """Of each channel (see `storage.optics`)."""
        ...

    def fill(self, out: NDArray[Any], *, z: int = 0, c: int = 0, t: int = 0) -> None:
        """Read planes from `z` on into `out`, shape (planes, Y, X)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySource:
    """An image whose voxels any array gives that can be sliced, of axes in any order."""

    name: str
    letters: str
    """One of t, c, z, y, x for each axis of the array."""
    lengths: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[Index], NDArray[Any]]
    """The voxels at integers and slices, one for each of `letters`; integers drop their axis."""
    voxel_um: MicrometerTriple | None
    voxel_source: str
    own_voxel_um: str = IMPORT_ALONE
    translation_um: MicrometerTriple = (0.0, 0.0, 0.0)
    named: tuple[ChannelStyle, ...] = ()

    @property
    def axes(self) -> str:
        """`zyx`, with t and c before it where the array has them."""
        return "".join(letter for letter in "tc" if letter in self.letters) + "zyx"

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each of `axes`."""
        known = dict(zip(self.letters, self.lengths, strict=True))
        return tuple(known.get(letter, 1) for letter in self.axes)

    @property
    def styles(self) -> tuple[ChannelStyle, ...]:
        """Of each channel; empty ones where the file names another number of them."""
        count = dict(zip(self.axes, self.shape, strict=True)).get("c", 1)
        return self.named if len(self.named) == count else (ChannelStyle(),) * count

    @property
    def optics(self) -> tuple[Optics, ...]:
        """Nothing is known."""
        return ({},) * len(self.styles)

    def fill(self, out: NDArray[Any], *, z: int = 0, c: int = 0, t: int = 0) -> None:
        """Read planes from `z` on into `out`, shape (planes, Y, X)."""
        at: dict[str, int | slice] = {"t": t, "c": c, "z": slice(z, z + len(out))}
        found = np.asarray(self.read(tuple(at.get(letter, slice(None)) for letter in self.letters)))
        kept = [letter for letter in self.letters if letter in "zyx"]
        ordered = found.transpose([kept.index(letter) for letter in "zyx" if letter in kept])
        out[...] = ordered if "z" in kept else ordered[None]


def native(dtype: Any, name: str) -> np.dtype[Any]:
    """The type of voxels as they are handed out: native byte order, booleans as bytes.

    Raises
    ------
    InputError : they are neither integers nor floats.
    """
    found = np.dtype(dtype)
    if found.kind not in "biuf":
        raise InputError(f"{name} holds values of type {found}", "Export integers or floats")
    return np.dtype(np.uint8) if found.kind == "b" else found.newbyteorder("=")


def is_size(sizes: Sequence[float]) -> bool:
    """Whether all are lengths: finite and above 0."""
    return all(isfinite(size) and size > 0 for size in sizes)


def unknown_unit(stated: Iterable[Any]) -> str:
    """The first of these words that is no unit of length; empty where all are, or there is none."""
    words = (str(word).strip() for word in stated if word)
    return next((word for word in words if um_per(word) is None), "")


def no_length(unit: str, place: str) -> str:
    """Why there is no voxel size, where one is stated in that unit."""
    return f"the file gives its voxel size in {unit!r} ({place}), which is no unit of length that is known"


def axes_remedy(count: int) -> str:
    """How so many axes are named; only an import takes names."""
    example = {2: "YX", 3: "ZYX", 4: "CZYX"}.get(count, "TCZYX")
    return f"Name each: chunkflow import SOURCE DESTINATION --axes {example}, one letter of T, C, Z, Y, X per axis"


def letters_of(given: str | None, found: Sequence[str] | None, lengths: Sequence[int], name: str) -> str:
    """One letter for each axis: those the user gave, else those the file names, else z, y, x for two or three axes.

    Raises
    ------
    InputError : they do not name each axis once, or y and x are not among them.
    """
    letters = given.lower() if given is not None else "".join(found).lower() if found else "zyx"[-len(lengths) :]
    shape = "x".join(map(str, lengths))
    if (
        len(letters) != len(lengths)
        or len(set(letters)) != len(letters)
        or not set("yx") <= set(letters) <= set("tczyx")
    ):
        said = f"and {letters.upper()} does not name its axes" if given or found else "and does not name its axes"
        raise InputError(
            f"{name} has the shape {shape}, {said}",
            axes_remedy(len(lengths)),
        )
    return letters
