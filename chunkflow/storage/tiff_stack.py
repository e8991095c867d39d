"""A TIFF stack that is read box by box, for an image that a run looks at once and need not import first.

Uncompressed files are mapped, so a box costs what it holds. Of others every plane that a box meets is decoded whole,
one at a time: a volume cut into N blocks along y and x decodes each plane N times. Import such a file where that is
long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import InputError, IntegrityError, nearest
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.scale import MicrometerTriple
from chunkflow.storage.layout import ArrayLayout
from chunkflow.storage.stores import ObjectPath, place_of
from chunkflow.storage.tiff_image import TiffImage, read_tiff

SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffStack:
    """The (Z, Y, X) voxels of a TIFF at one channel and time point. Holds no file open, so threads may share it;
    pickles as what it says.
    """

    path: str
    axes: str
    """`zyx`, with t and c before it where the file has them."""
    lengths: tuple[int, ...]
    """Of each of `axes`."""
    dtype: np.dtype[Any]
    at: tuple[int, ...] = ()
    """Position along the axes other than z, y, x, in their order."""
    channel: str = ""
    """Name of the channel chosen, empty where it has none."""
    voxel_um: MicrometerTriple | None = None
    """z, y, x; None where the file does not say."""
    window: Box | None = None
    """The part of the stack that this is, None for all of it."""

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        return triple(self.lengths[-3:]) if self.window is None else self.window.shape

    @property
    def box(self) -> Box:
        """All voxels."""
        return Box.of_shape(self.shape)

    @property
    def layout(self) -> ArrayLayout:
        """One file, read plane by plane."""
        _, y, x = self.shape
        return ArrayLayout(self.shape, self.dtype.name, (1, y, x), self.shape)

    def cropped(self, box: Box) -> TiffStack:
        """The voxels of a box as a stack of its own, whose voxel 0 is the first of the box.

        Raises
        ------
        InputError : if the box is not inside the stack.
        """
        self._check_inside(box)
        return replace(self, window=self._in_file(box))

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of `box`, shape `box.shape`.

        Raises
        ------
        InputError : if the box is not inside the stack.
        IntegrityError : if the file is no longer what it was.
        """
        self._check_inside(box)
        image = read_tiff(self.path)  # each time: the reader under it keeps its place in the file
        if image.shape != self.lengths or image.dtype != self.dtype:
            raise IntegrityError(f"{self.path} was changed while it was read", "Run the command again")
        out = np.empty(box.shape, self.dtype)
        image.fill_box(out, self._in_file(box), **dict(zip(self.axes, self.at, strict=False)))
        return out

    def identity(self) -> dict[str, Any]:
        """What tells this file from a changed one, as JSON values: what its voxels are, its size and its time. Of the
        form of `identity.Identity`.
        """
        status = Path(self.path).stat()
        metadata = {
            "shape": list(self.lengths),
            "dtype": str(self.dtype),
            "axes": self.axes,
            "at": list(self.at),
            "bytes": status.st_size,
            "modified": status.st_mtime_ns,
            **({} if self.window is None else {"region": str(self.window)}),
        }
        return {"metadata": metadata, "files": 1, "bytes": status.st_size, "depth": 1, "groups": {}}

    def _check_inside(self, box: Box) -> None:
        if not self.box.contains(box):
            raise InputError(f"box {box} reaches outside the stack of shape {self.shape}", "Clip it to the stack")

    def _in_file(self, box: Box) -> Box:
        return box if self.window is None else box.relative_to(triple([-n for n in self.window.start]))


def is_tiff(path: str) -> bool:
    """Whether a file is called as TIFFs are."""
    return place_of(path).suffix.lower() in SUFFIXES


def local_tiff(path: str | Path) -> TiffImage:
    """A TIFF and what it says of itself.

    Raises
    ------
    InputNotFoundError, InputError : it is not there, is damaged, or lies in an object store.
    """
    if isinstance(place_of(path), ObjectPath):
        raise InputError(
            f"{path} is a TIFF in an object store, which cannot be read box by box", "Import it, or copy it here"
        )
    return read_tiff(path)


def open_tiff_stack(path: str | Path, *, channel: int | str | None = None, time: int | None = None) -> TiffStack:
    """Open one channel and time point of a TIFF without reading its voxels.

    Parameters
    ----------
    channel, time : name or number, and number; needed where the file has several.

    Raises
    ------
    InputNotFoundError, InputError : it is not there, is damaged, lies in an object store, or has several channels or
        time points of which none, or none of its own, is named.
    """
    image = local_tiff(path)
    lengths = dict(zip(image.axes, image.shape, strict=True))
    names = image.channels if "c" in lengths else ("",)
    chosen = {
        "c": _channel(path, channel, names),
        "t": _chosen(path, "time point", time, lengths.get("t", 1)),
    }
    return TiffStack(
        path=str(Path(path).resolve()),
        axes=image.axes,
        lengths=image.shape,
        dtype=image.dtype,
        at=tuple(chosen[letter] for letter in image.axes if letter in chosen),
        channel=names[chosen["c"]],
        voxel_um=image.voxel_um,
    )


def _channel(path: str | Path, channel: int | str | None, names: tuple[str, ...]) -> int:
    if isinstance(channel, str) and names.count(channel) == 1:
        return names.index(channel)
    if isinstance(channel, str) and not channel.isdigit():
        raise InputError(
            f"{path} has no one channel named {channel!r}",
            nearest(channel, filter(None, names)) if any(names) else f"Choose by number, 0 to {len(names) - 1}",
        )
    return _chosen(path, "channel", None if channel is None else int(channel), len(names))


def _chosen(path: str | Path, what: str, number: int | None, count: int) -> int:
    if number is None and count > 1:
        hint = "; planes that a writer took for colours: write them with photometric='minisblack'"
        more = hint if what == "channel" and count in (3, 4) else ""
        raise InputError(f"{path} holds {count} {what}s, and one is read", f"Save one {what} alone{more}")
    if number is not None and not 0 <= number < count:
        raise InputError(f"{path} has no {what} {number}", f"It holds 0 to {count - 1}")
    return number or 0
