"""An image of any format we read becomes an OME-Zarr image, with every channel and time point.

    TIFF, OME-TIFF, ImageJ; a folder of planes    storage.tiff
    HDF5 (h5py), N5 (tensorstore)                 storage.hdf5, storage.n5
    another zarr: arrays, any OME-Zarr            storage.zarr_source
    CZI, LIF, ND2 (bioio)                         storage.bioio_source

Each of these gives an `ImageSource`: what the file says of itself, and planes when they are asked for. Planes are read
into a slab as deep as one file of the output, which is then written whole; a slab above half a gigabyte lies in a
temporary file. Everything is written beside the destination and renamed at the end, so a killed import leaves no half
image. Every chunk is written: a chunk that is missing later is a loss, not a background.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import InputError, InputNotFoundError, OutputInUseError, UsageError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.scale import MicrometerTriple, Scale, micrometer_triple
from chunkflow.storage import bioio_source, hdf5, n5, zarr_source
from chunkflow.storage.files import disk_full_reported
from chunkflow.storage.hierarchy import zarr_kind
from chunkflow.storage.image_source import ChannelStyle, ImageSource
from chunkflow.storage.layout import LONGEST_SHARD, layout_for_core
from chunkflow.storage.omezarr import ZARR_FORMAT, Channel, Format
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.optics import Optics
from chunkflow.storage.stores import is_url
from chunkflow.storage.tiff import planes_of, stack_source
from chunkflow.storage.tiff_image import read_tiff
from chunkflow.storage.volume import create_array, local_path

_LARGEST_SLAB = 1 << 29


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import found and wrote."""

    destination: Path
    files: int
    """How many files were read."""
    axes: str
    shape: tuple[int, ...]
    """Length of each of `axes`."""
    dtype: str
    voxel_um: MicrometerTriple
    """z, y, x."""
    voxel_source: str
    """Where the voxel size was found."""
    channels: tuple[str, ...]
    optics: tuple[Optics, ...]
    """What the source says of the optics of each channel (see `storage.optics`), empty where it says nothing."""
    translation_um: MicrometerTriple
    """Centre of voxel 0, z, y, x."""


def import_image(
    sources: str | Path | Sequence[str | Path],
    destination: str | Path,
    *,
    voxel_um: Sequence[float] | None = None,
    axes: str | None = None,
    dataset: str | None = None,
    channels: Sequence[str] | None = None,
    format: Format = "0.5",
    overwrite: bool = False,
    on_plane: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Write an OME-Zarr image from one image of any format (see the module).

    Parameters
    ----------
    sources : a file or a zarr or N5 folder; or the single-plane TIFFs of a z stack, the folder of them or a pattern,
        stacked in natural name order. FILE.h5:/PATH names a dataset.
    voxel_um : z, y, x, instead of what the file says.
    axes : letters of T, C, Z, Y, X for the axes of the file, slowest first, instead of what it says.
    dataset : of HDF5, N5 or zarr; image of an OME-TIFF of several, or scene of a CZI, LIF or ND2, by name or number.
    channels : names, instead of what the file says.
    overwrite : replace an image that is there. Nothing but an image is ever replaced.
    on_plane : called with planes done and planes in all.

    Raises
    ------
    InputNotFoundError, InputError : if a source cannot be read or states no voxel size.
    UsageError : if the destination is not empty, or a package that the format needs is not installed.
    OutputInUseError : if another import writes the same destination.
    """
    final = local_path(destination)
    _check_destination(final, overwrite)
    source, count = open_source(sources, axes=axes, dataset=dataset)
    scale, voxel_source = _scale(source, voxel_um)
    names = channel_names(source, channels)
    optics = source.optics
    with disk_full_reported(final), _beside(final) as partial:
        ranges = _write_array(source, partial, scale, format, on_plane)
        write_image_group(
            partial,
            name=final.name.split(".")[0],
            levels={"0": scale},
            format=format,
            axes=source.axes,
            channels=[_shown(*known) for known in zip(names, source.styles, ranges, strict=True)],
            default_z=dict(zip(source.axes, source.shape, strict=True)).get("z", 1) // 2,
            optics=optics,
        )
        _check_destination(final, overwrite)
        _replace(partial, final)
    return ImportReport(
        destination=final,
        files=count,
        axes=source.axes,
        shape=source.shape,
        dtype=source.dtype.name,
        voxel_um=scale.voxel_um,
        voxel_source=voxel_source,
        channels=tuple(names),
        optics=optics,
        translation_um=scale.translation_um,
    )


def open_source(
    sources: str | Path | Sequence[str | Path], *, axes: str | None = None, dataset: str | None = None
) -> tuple[ImageSource, int]:
    """The image that sources mean, without reading its voxels, and how many files it comes from.

    Parameters and errors are those of `import_image`.
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    found = [path for source in listed for path in _expanded(str(source))]
    if not found:
        raise UsageError("no file to import", "Name at least one")
    if len(found) == 1:
        inner, named = hdf5.split_dataset(found[0])
        return _open_one(inner, axes, named if dataset is None else dataset)
    paths = [path for text in found for path in planes_of(local_path(text))]
    return stack_source(paths, axes), len(paths)


def _expanded(text: str) -> list[str]:
    """The paths that a pattern fits, or the text itself."""
    if not glob.has_magic(text) or Path(text).exists():
        return [text]
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise InputNotFoundError(f"no file fits {text}", "Check the pattern")
    return found


def _open_one(text: str, axes: str | None, dataset: str | None) -> tuple[ImageSource, int]:
    if is_url(text):
        return zarr_source.zarr_source(text, dataset=dataset, axes=axes), 1
    path = local_path(text)
    if not path.exists():
        raise InputNotFoundError(f"{path} does not exist", "Check the path")
    if path.is_dir():
        return _open_folder(path, axes, dataset)
    ending = path.suffix.lower()
    if ending in hdf5.SUFFIXES:
        return hdf5.hdf5_source(path, dataset=dataset, axes=axes), 1
    if ending in bioio_source.READERS:
        _refuse_axes(path, axes)
        return bioio_source.bioio_source(path, scene=dataset), 1
    return read_tiff(path, axes=axes, image=dataset), 1


def _refuse_dataset(path: Path, dataset: str | None) -> None:
    if dataset is not None:
        raise UsageError(f"{path} is a folder of planes, which has no dataset {dataset!r}", "Leave --dataset out")


def _refuse_axes(path: Path, axes: str | None) -> None:
    if axes is not None:
        raise UsageError(f"the reader of {path} knows its axes; --axes {axes} says nothing", "Leave --axes out")


def _open_folder(path: Path, axes: str | None, dataset: str | None) -> tuple[ImageSource, int]:
    if zarr_kind(path) is not None:
        return zarr_source.zarr_source(path, dataset=dataset, axes=axes), 1
    if n5.is_n5(path):
        return n5.n5_source(path, dataset=dataset, axes=axes), 1
    _refuse_dataset(path, dataset)
    planes = planes_of(path)
    return (read_tiff(planes[0], axes=axes), 1) if len(planes) == 1 else (stack_source(planes, axes), len(planes))


def _scale(source: ImageSource, voxel_um: Sequence[float] | None) -> tuple[Scale, str]:
    if voxel_um is not None:
        return Scale(micrometer_triple(voxel_um), source.translation_um), "as given"
    if source.voxel_um is None:
        raise InputError(
            f"{source.name}: {source.voxel_source}",
            "Add --voxel-um Z Y X, in micrometers; of several files it counts for all, so where they differ, "
            + source.own_voxel_um,
        )
    return Scale(source.voxel_um, source.translation_um), source.voxel_source


def channel_names(source: ImageSource, given: Sequence[str] | None = None) -> list[str]:
    """Names of the channels as an import writes them: those given, else the source's own, else counted from 0.

    Raises
    ------
    UsageError : not as many are given as there are channels.
    """
    own = [style.name for style in source.styles]
    if given is not None and len(given) != len(own):
        raise UsageError(
            f"{len(given)} channel names for the {len(own)} channels of {source.name}", "Name each channel"
        )
    return [name or f"channel_{i}" for i, name in enumerate(given or own)]


def _shown(name: str, style: ChannelStyle, limits: tuple[float, float]) -> Channel:
    """The channel as the file shows it, else with its whole range."""
    return Channel(name, style.window or limits, style.color, limits)


def _check_destination(final: Path, overwrite: bool) -> None:
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    if not overwrite:
        raise UsageError(f"{final} exists and is not empty", "Choose another destination, or add --overwrite")
    if not any((final / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
        raise UsageError(f"{final} holds something that is not a zarr image", "Choose another destination")


@contextmanager
def _beside(final: Path) -> Iterator[Path]:
    """A locked, empty folder beside `final`; what an import that was killed left in it is removed."""
    partial = final.with_name(f".{final.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    folder = os.open(partial, os.O_RDONLY)
    try:
        _lock(folder, partial, final)
        for entry in partial.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(folder)


def _lock(folder: int, partial: Path, final: Path) -> None:
    """Hold the folder until its descriptor closes; the system lets go of it when the process dies."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(folder).st_ino == partial.stat().st_ino:
            return
    except (BlockingIOError, FileNotFoundError):
        pass
    raise OutputInUseError(f"{final} is being written by another import", "Wait for it, or choose another destination")


def _replace(partial: Path, final: Path) -> None:
    """Put the finished folder in its place, and remove what was there."""
    if not final.exists():
        partial.rename(final)
        return
    old = final.with_name(f".{final.name}.old-{os.getpid()}")
    final.rename(old)
    partial.rename(final)
    shutil.rmtree(old)


def _write_array(
    source: ImageSource, folder: Path, scale: Scale, format: Format, on_plane: Callable[[int, int], None] | None
) -> list[tuple[float, float]]:
    """Write every voxel, and return the smallest and largest value of each channel."""
    lengths = dict(zip(source.axes, source.shape, strict=True))
    shape = triple(source.shape[-3:])
    layout = layout_for_core((LONGEST_SHARD,) * 3, shape, source.dtype, ZARR_FORMAT[format])
    layout = replace(layout, leading=source.shape[:-3])
    volume = create_array(folder / "0", layout, scale, axes=source.axes)
    windows: list[tuple[float, float]] = []
    done, planes = 0, prod(source.shape[:-2])
    with _slab((min(layout.write_unit[0], shape[0]), *shape[1:]), source.dtype, folder) as slab:
        for c in range(lengths.get("c", 1)):
            ranges = []
            for t in range(lengths.get("t", 1)):
                at = tuple({"t": t, "c": c}[letter] for letter in source.axes if letter in "tc")
                for box in _slabs(shape, len(slab)):
                    part = slab[: box.shape[0]]
                    source.fill(part, z=box.start[0], c=c, t=t)
                    replace(volume, at=at).write(box, part)
                    ranges.append(_value_range(part))
                    done += len(part)
                    if on_plane is not None:
                        on_plane(done, planes)
            windows.append(_window(ranges))
    return windows


def _slabs(shape: Triple, depth: int) -> Iterator[Box]:
    for z in range(0, shape[0], depth):
        yield Box((z, 0, 0), (min(z + depth, shape[0]), *shape[1:]))


@contextmanager
def _slab(shape: Triple, dtype: np.dtype[Any], folder: Path) -> Iterator[NDArray[Any]]:
    """Room for planes: memory, or a temporary file in `folder` where that would be too much."""
    if prod(shape) * dtype.itemsize <= _LARGEST_SLAB:
        yield np.empty(shape, dtype)
        return
    path = folder / "slab"
    try:
        yield np.memmap(path, dtype, "w+", shape=shape)
    finally:
        path.unlink(missing_ok=True)


def _value_range(values: NDArray[Any]) -> tuple[float, float] | None:
    """Smallest and largest finite value; None where there is none."""
    low, high = values.min().item(), values.max().item()
    if isfinite(low) and isfinite(high):
        return low, high
    finite = values[np.isfinite(values)]
    return (finite.min().item(), finite.max().item()) if finite.size else None


def _window(ranges: Sequence[tuple[float, float] | None]) -> tuple[float, float]:
    """What a viewer shows as black and full colour, never the same value."""
    known = [found for found in ranges if found is not None] or [(0, 1)]
    low, high = min(low for low, _ in known), max(high for _, high in known)
    return (low, high) if high > low else (low, low + 1)
