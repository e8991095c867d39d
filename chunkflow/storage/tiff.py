"""The single-plane TIFFs of a z stack as one image, opened one at a time in the order that people read names in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from chunkflow.errors import InputError, InputNotFoundError
from chunkflow.geometry.scale import MicrometerTriple
from chunkflow.storage.image_source import IMPORT_ALONE, ImageSource
from chunkflow.storage.tiff_image import TiffImage, read_tiff

__all__ = ["TiffImage", "planes_of", "read_tiff", "stack_source"]

_SUFFIXES = (".tif", ".tiff")


def planes_of(path: Path) -> list[Path]:
    """The file itself, or the TIFFs of a folder, in natural order.

    Raises
    ------
    InputNotFoundError, InputError : nothing is there, or no TIFF is.
    """
    if not path.exists():
        raise InputNotFoundError(f"{path} does not exist", "Check the path")
    if path.is_file():
        return [path]
    found = [entry for entry in path.iterdir() if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".")]
    if not found:
        raise InputError(f"{path} is a folder without .tif or .tiff files", "Give the folder of one z stack")
    return sorted(found, key=_natural)


def stack_source(paths: Sequence[Path], axes: str | None = None) -> ImageSource:
    """The planes of several files, one above the other in natural order of their names.

    Raises
    ------
    InputError : a file holds several planes, or another kind of plane than the first.
    """
    return _Stack(sorted(paths, key=_natural), axes)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Order that puts plane_2 before plane_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


class _Stack:
    """Single-plane files as the planes of a z stack, opened one at a time."""

    def __init__(self, paths: Sequence[Path], axes: str | None) -> None:
        self._paths = paths
        self._axes = None if axes is None else axes.lower().replace("z", "")
        first = self._image(0)
        self.axes, self.dtype, self.styles, self.optics = first.axes, first.dtype, first.styles, first.optics
        for number in range(len(paths)):
            self._check(self._image(number), first.shape)
        self.name = str(paths[0].parent)
        self.shape = (*first.shape[:-3], len(paths), *first.shape[-2:])
        self.voxel_um: MicrometerTriple | None = None
        self.voxel_source = "single planes state no z spacing"
        self.own_voxel_um = IMPORT_ALONE
        self.translation_um: MicrometerTriple = (0.0, 0.0, 0.0)

    def fill(self, out: NDArray[Any], *, z: int = 0, c: int = 0, t: int = 0) -> None:
        """Read planes from `z` on into `out`, shape (planes, Y, X)."""
        for offset in range(len(out)):
            self._image(z + offset).fill(out[offset : offset + 1], c=c, t=t)

    def _image(self, number: int) -> TiffImage:
        return read_tiff(self._paths[number], axes=self._axes)

    def _check(self, image: TiffImage, plane_shape: tuple[int, ...]) -> None:
        if image.shape[-3] != 1:
            raise InputError(
                f"{image.name} holds {image.shape[-3]} planes, and {len(self._paths)} files were given",
                "Import files with several planes one at a time, or all with --each",
            )
        if (image.shape, image.axes, image.dtype) != (plane_shape, self.axes, self.dtype):
            raise InputError(
                f"{image.name} has shape {image.shape} and type {image.dtype}, {self._paths[0]} has {plane_shape} and"
                f" {self.dtype}",
                "Import the files of one stack at a time",
            )
