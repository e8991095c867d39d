"""A TIFF stack that is read box by box, for an image that a run looks at once and need not import first.

Uncompressed files are mapped, so a box costs what it holds. Of others every plane that a box meets is decoded whole,
one at a time: a volume cut into N blocks along y and x decodes each plane N times. Import such a file where that is
long.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import InputError, IntegrityError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.storage.tiff_image import read_tiff

SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class TiffStack:
    """The (Z, Y, X) voxels of a TIFF. Holds no file open, so threads may share it; pickles as what it says."""

    path: str
    shape: Triple
    dtype: np.dtype[Any]

    @property
    def box(self) -> Box:
        """All voxels."""
        return Box.of_shape(self.shape)

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of `box`, shape `box.shape`.

        Raises
        ------
        InputError : if the box is not inside the stack.
        IntegrityError : if the file is no longer what it was.
        """
        if not self.box.contains(box):
            raise InputError(f"box {box} reaches outside the stack of shape {self.shape}", "Clip it to the stack")
        image = read_tiff(self.path)  # each time: the reader under it keeps its place in the file
        if image.shape != self.shape or image.dtype != self.dtype:
            raise IntegrityError(f"{self.path} was changed while it was read", "Run the command again")
        out = np.empty(box.shape, self.dtype)
        image.fill_box(out, box)
        return out

    def identity(self) -> dict[str, Any]:
        """What tells this file from a changed one, as JSON values: its voxels' type, its size and its time."""
        status = Path(self.path).stat()
        return {
            "shape": list(self.shape),
            "dtype": str(self.dtype),
            "bytes": status.st_size,
            "modified": status.st_mtime_ns,
        }


def open_tiff_stack(path: str | Path) -> TiffStack:
    """Open a TIFF of one stack without reading its voxels.

    Raises
    ------
    InputNotFoundError, InputError : it is not there, is damaged, or has channels or time points.
    """
    image = read_tiff(path)
    if image.axes != "zyx":
        lengths = ", ".join(f"{letter} {n}" for letter, n in zip(image.axes, image.shape, strict=True))
        raise InputError(f"{path} has the axes {lengths}, and is no stack of planes", "Save one channel and time point")
    return TiffStack(str(Path(path).resolve()), triple(image.shape), image.dtype)
