"""One TIFF as planes along t, c and z, read when asked for: TIFF, ImageJ hyperstacks and OME-TIFF.

Axes come from the file's own description; one axis without a meaning is taken as z. Uncompressed files are mapped into
memory, others are decoded page by page, so a file of any length needs the memory of one page. A damaged file is an
error here: left alone, the reader underneath logs a line and returns a shorter image.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tifffile
from numpy.typing import NDArray

from chunkflow.errors import InputError, InputNotFoundError
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import MicrometerTriple
from chunkflow.storage.image_source import ChannelStyle, axes_remedy, native
from chunkflow.storage.optics import Optics, ome_optics
from chunkflow.storage.tiff_channels import channel_styles
from chunkflow.storage.tiff_scale import found_scale, found_translation, ome_name

Dims: TypeAlias = list[tuple[str, int]]
"""Letter ("" for an axis of length one that is left out) and length of each axis of a file."""


@dataclass(frozen=True, slots=True)
class TiffImage:
    """A TIFF whose voxels are read when asked for; its file is open only meanwhile."""

    name: str
    """Path, for messages."""
    axes: str
    """`zyx`, with t and c before it where the file has them."""
    shape: tuple[int, ...]
    """Length of each of `axes`."""
    dtype: np.dtype[Any]
    voxel_um: MicrometerTriple | None
    """z, y, x in um; None where the file does not say."""
    voxel_source: str
    """Where the voxel size was found, or why there is none."""
    styles: tuple[ChannelStyle, ...]
    """Name, colour and contrast of each channel, as far as the file states them."""
    translation_um: MicrometerTriple
    """Centre of voxel 0, z, y, x."""
    _ome: tuple[str, int]
    """OME-XML of the file, empty where it has none, and the number of this image in it."""
    _planes: _Planes

    @property
    def own_voxel_um(self) -> str:
        """How people give a TIFF its voxel size."""
        return "set it in Fiji (Image > Properties)"

    @property
    def channels(self) -> tuple[str, ...]:
        """Name of each channel, empty where it has none."""
        return tuple(style.name for style in self.styles)

    @property
    def optics(self) -> tuple[Optics, ...]:
        """What the file says of the optics of each channel (see `storage.optics`), read on each use."""
        xml, image = self._ome
        count = len(self.styles)
        return ome_optics(xml, image, count, self.name) if xml else ({},) * count

    @property
    def array(self) -> NDArray[Any]:
        """The whole image, read on each use, in the order of `axes`."""
        out = np.empty(self.shape, self.dtype)
        for at in np.ndindex(self.shape[:-3]):
            self.fill(out[at], **dict(zip(self.axes, at, strict=False)))
        return out

    def fill(self, out: NDArray[Any], *, z: int = 0, c: int = 0, t: int = 0) -> None:
        """Read planes from `z` on into `out`, shape (planes, Y, X)."""
        try:
            for offset in range(len(out)):
                out[offset] = self._planes.plane({"z": z + offset, "c": c, "t": t})
        finally:
            self._planes.close()

    def fill_box(self, out: NDArray[Any], box: Box, *, c: int = 0, t: int = 0) -> None:
        """Read the voxels of a box of one channel and time point into `out`, shape `box.shape`."""
        planes, rows, columns = box.slices
        try:
            for offset, z in enumerate(range(planes.start, planes.stop)):
                out[offset] = self._planes.plane({"z": z, "c": c, "t": t})[rows, columns]
        finally:
            self._planes.close()


def read_tiff(path: str | Path, *, axes: str | None = None, image: str | None = None) -> TiffImage:
    """Open a TIFF without reading its voxels.

    Parameters
    ----------
    axes : letters of T, C, Z, Y, X for the file's axes, instead of what the file says.
    image : name or number, from 0, of one of the images of a file that holds several.

    Raises
    ------
    InputNotFoundError, InputError : if it is not there, no such image or several, damaged, or has other axes.
    """
    path = Path(path)
    if not path.is_file():
        raise InputNotFoundError(f"{path} is not a file", "Check the path")
    with _damage_reported(path), tifffile.TiffFile(path) as file:
        return _described(path, file, axes, image)


def ome_image_names(path: Path) -> list[str]:
    """Names of the images of an OME-TIFF, "" where one has none; of any other TIFF a single "".

    Raises
    ------
    InputError : it is damaged, or no TIFF.
    """
    with _damage_reported(path), tifffile.TiffFile(path) as file:
        return [ome_name(file, number) for number, _ in _images(file)] if file.is_ome else [""]


def write_tiff(path: str | Path, voxels: NDArray[Any], voxel_um: MicrometerTriple) -> None:
    """Write (Z, Y, X) voxels as a TIFF that ImageJ opens with its voxel size."""
    z, y, x = voxel_um
    metadata = {"axes": "ZYX", "spacing": z, "unit": "um", "min": float(voxels.min()), "max": float(voxels.max())}
    # three planes are not red, green and blue
    tifffile.imwrite(path, voxels, imagej=True, photometric="minisblack", resolution=(1 / x, 1 / y), metadata=metadata)


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Turn whatever the reader raises, or only logs, into one InputError."""
    logged = _Damage()
    logger = logging.getLogger("tifffile")
    logger.addHandler(logged)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever they like
        raise InputError(f"{path} cannot be read as a TIFF ({error})", "Check the file, or export it again") from error
    finally:
        logger.removeHandler(logged)
        logger.propagate = propagates
    if logged.messages:
        said = re.sub(r"^<tifffile\S+ .*?> ", "", logged.messages[0])
        raise InputError(f"{path} is a damaged TIFF ({said})", "Export it again")


class _Damage(logging.Handler):
    """Collects what tifffile logs as an error in this thread, other than odd tags that carry no voxels."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        text = record.getMessage()
        is_odd_tag = "TiffTag" in text and "TiffTag 270" not in text
        if record.thread == self._thread and not is_odd_tag:
            self.messages.append(text)


def _described(path: Path, file: tifffile.TiffFile, axes: str | None, image: str | None) -> TiffImage:
    index, series = _one_series(path, file, image)
    dims = _dims(path, series, axes)
    lengths = dict(dims)
    shown = "".join(letter for letter in "tc" if letter in lengths) + "zyx"
    scale = found_scale(file, index, lengths.get("z", 1))
    count = lengths.get("c", 1)
    return TiffImage(
        name=str(path),
        axes=shown,
        shape=tuple(lengths.get(letter, 1) for letter in shown),
        dtype=native(series.dtype, str(path)),
        voxel_um=scale.voxel_um,
        voxel_source=scale.source,
        styles=channel_styles(file, index, count),
        translation_um=found_translation(file, index, scale.voxel_um),
        _ome=(file.ome_metadata or "", index),
        _planes=_Planes(path, file, series, dims),
    )


def _images(file: tifffile.TiffFile) -> list[tuple[int, tifffile.TiffPageSeries]]:
    """The images of a file with their numbers, previews aside."""
    return [(i, series) for i, series in enumerate(file.series) if not series.keyframe.is_reduced]


def _one_series(path: Path, file: tifffile.TiffFile, wanted: str | None) -> tuple[int, tifffile.TiffPageSeries]:
    """The image that is meant, by its name or its number among the images; the only one where none is named."""
    images = _images(file)
    names = [ome_name(file, index) if file.is_ome else "" for index, _ in images]
    if wanted is None and len(images) == 1:
        return images[0]
    if wanted is not None and names.count(wanted) == 1:
        return images[names.index(wanted)]
    if wanted is not None and wanted.isdecimal() and int(wanted) < len(images):
        return images[int(wanted)]
    if len(images) == 1:
        raise InputError(f"{path} holds one image, and none that is called {wanted!r}", "Leave --image out")
    shapes = ("x".join(map(str, series.shape)) for _, series in images)
    listed = [f"{number} {name} ({shape})" for number, (name, shape) in enumerate(zip(names, shapes, strict=True))]
    shown = ", ".join(" ".join(words.split()) for words in listed[:8])
    what = f"{path} holds {len(images)} images: {shown}"
    if wanted is not None:
        raise InputError(f"{what}; there is no one image {wanted!r}", "Name one by its number or its own name")
    raise InputError(what, "Choose one: chunkflow import SOURCE DESTINATION --image NUMBER|NAME")


def _dims(path: Path, series: tifffile.TiffPageSeries, axes: str | None) -> Dims:
    """Letter and length of each axis of the series, axes of length one included."""
    lengths = series.get_shape(squeeze=False)
    letters = list(series.get_axes(squeeze=False).lower()) if axes is None else _given(path, lengths, axes)
    dims = _named([(a if n > 1 or a in ("y", "x") else "", n) for a, n in zip(letters, lengths, strict=True)])
    named = [letter for letter, _ in dims if letter]
    if len(set(named)) != len(named) or not {"y", "x"} <= set(named) <= set("tczyx"):
        raise _wrong_axes(path, series.shape, series.axes if axes is None else axes)
    return dims


def _given(path: Path, lengths: tuple[int, ...], axes: str) -> list[str]:
    """Letters the user gave, for all axes or for those longer than one."""
    letters = list(axes.lower())
    if len(letters) == len(lengths):
        return letters
    longer = [axis for axis, length in enumerate(lengths) if length > 1]
    if len(letters) != len(longer):
        raise _wrong_axes(path, tuple(lengths[axis] for axis in longer), axes)
    spread = [""] * len(lengths)
    for axis, letter in zip(longer, letters, strict=True):
        spread[axis] = letter
    return spread


def _wrong_axes(path: Path, shape: tuple[int, ...], axes: str) -> InputError:
    return InputError(
        f"{path} has an image of shape {'x'.join(map(str, shape))}, and {axes.upper()} does not name its axes",
        axes_remedy(len(shape)),
    )


def _named(dims: Dims) -> Dims:
    """Samples (RGB) become the channels, and one axis without a meaning becomes z, where these are free."""
    letters = [letter for letter, _ in dims]
    renamed = {"s": "c"} if "c" not in letters else {}
    unknown = [letter for letter in letters if letter and letter not in "tczyxs"]
    if len(unknown) == 1 and "z" not in letters:
        renamed[unknown[0]] = "z"
    return [(renamed.get(letter, letter), length) for letter, length in dims]


class _Planes:
    """Planes of a series: from a map of the file where it is one contiguous array, else from one page at a time."""

    def __init__(self, path: Path, file: tifffile.TiffFile, series: tifffile.TiffPageSeries, dims: Dims) -> None:
        self._path = path
        self._pages = series.pages
        self._letters = [letter for letter, _ in dims]
        self._shape = tuple(length for _, length in dims)
        self._split = self._page_axes(prod(series.keyframe.shape))
        self._mapped = self._map(file, series)
        self._last: tuple[int, NDArray[Any]] | None = None
        self._file = file.filehandle
        self._opened = {file.filehandle}

    def plane(self, at: dict[str, int]) -> NDArray[Any]:
        """The (Y, X) plane at a position along z, c and t."""
        index = tuple(slice(None) if letter in ("y", "x") else at.get(letter, 0) for letter in self._letters)
        if self._mapped is not None:
            plane = self._mapped[index]
        else:
            numbers = [int(value) for value in index[: self._split] if not isinstance(value, slice)]
            page = int(np.ravel_multi_index(numbers, self._shape[: self._split])) if numbers else 0
            plane = self._page(page)[index[self._split :]]
        return plane if self._letters.index("y") < self._letters.index("x") else plane.T

    def _page_axes(self, page_size: int) -> int:
        """Where the axes that count pages end and those of a page begin."""
        for split in range(len(self._shape) - 1):
            if prod(self._shape[split:]) == page_size and not set(self._letters[:split]) & {"y", "x"}:
                return split
        letters = "".join(self._letters).upper()
        raise InputError(
            f"{self._path} stores planes that {letters} does not fit, whose last axes are those of a plane",
            f"{axes_remedy(len(self._shape))}, slowest first; else export the file again as ImageJ TIFF",
        )

    def _map(self, file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> NDArray[Any] | None:
        offset = series.dataoffset
        is_one_file = all(page is None or page.parent is file for page in (series.pages[0], series.pages[-1]))
        if offset is None or series.dtype is None or series.dtype.kind == "b" or not is_one_file:
            return None
        stored = series.dtype.newbyteorder(file.byteorder)
        return np.memmap(self._path, stored, "r", offset, self._shape)

    def _page(self, number: int) -> NDArray[Any]:
        """One page with the axes it has; the last one is kept, as several planes may come from it."""
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        with _damage_reported(self._path):
            self._file.open()
            page = self._pages[number]
            if page is None:
                raise InputError(f"{self._path} lacks plane {number} of its image", "Add the file that holds it")
            page.parent.filehandle.open()  # planes may lie in other files of a set
            self._opened.add(page.parent.filehandle)
            data = page.asarray().reshape(self._shape[self._split :])
        self._last = number, data
        return data

    def close(self) -> None:
        """Close the files that reading opened; reading again opens them again."""
        self._last = None
        for file in self._opened:
            file.close()
