"""One dataset of an HDF5 file, as ilastik, PlantSeg, Fiji and h5py users write them (needs h5py).

    FILE.h5:/path/to/dataset, or `dataset`; a file of one image needs neither

Axes come from `axistags` (ilastik) or from the labels of the dimensions; without either two or three axes are (z) y x.
The voxel size comes from `element_size_um` (z, y, x), which Fiji's HDF5 plugin, ilastik's exports and PlantSeg share.
Other attributes called resolution are in no unit one could know, and are not guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.errors import InputError, InputNotFoundError, UsageError
from chunkflow.geometry.scale import MicrometerTriple
from chunkflow.storage.image_source import ArraySource, Index, is_size, letters_of, native

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
_SHOWN = 12


def hdf5_source(path: Path, *, dataset: str | None = None, axes: str | None = None) -> ArraySource:
    """Open a dataset without reading its voxels. The file is opened again for each read.

    Raises
    ------
    UsageError : h5py is not installed.
    InputError : it is no HDF5 file, or holds no such dataset, or several and none is named.
    """
    library = _h5py()
    if not path.is_file():
        raise InputNotFoundError(f"{path} is not a file", "Check the path")
    try:
        with library.File(path, "r") as file:
            where = _chosen(file, path, dataset, library)
            found = file[where]
            name = f"{path}:/{where}"
            lengths = tuple(int(length) for length in found.shape)
            letters = letters_of(axes, _axes(found), lengths, name)
            voxel_um, voxel_source = _voxel_size(found, letters)
            dtype = native(found.dtype, name)
    except OSError as error:
        raise InputError(f"{path} cannot be read as HDF5 ({error})", "Check the file, or export it again") from error

    def read(index: Index) -> Any:
        try:
            with library.File(path, "r") as file:
                return file[where][index]
        except OSError as error:
            raise InputError(f"{name} cannot be read ({error})", "Check the file, or export it again") from error

    return ArraySource(
        name=name,
        letters=letters,
        lengths=lengths,
        dtype=dtype,
        read=read,
        voxel_um=voxel_um,
        voxel_source=voxel_source,
        own_voxel_um="write the attribute element_size_um (z, y, x) to its dataset",
    )


def split_dataset(text: str) -> tuple[str, str | None]:
    """A path, and the dataset in it: FILE.h5:/a/b, FILE.h5/a/b and FILE.n5:/a/b name one."""
    head, separator, tail = text.rpartition(":")
    if separator and Path(head).suffix.lower() in (*SUFFIXES, ".n5"):
        return head, tail.strip("/") or None
    if not Path(text).exists():
        for parent in Path(text).parents:
            if parent.suffix.lower() in SUFFIXES and parent.is_file():
                return str(parent), str(Path(text).relative_to(parent))
    return text, None


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise UsageError("HDF5 needs h5py, which is not installed", "pip install 'chunkflow-engine[hdf5]'") from error
    return h5py


def _chosen(file: Any, path: Path, dataset: str | None, library: Any) -> str:
    """The path of the dataset inside the file."""
    found: list[str] = []

    def keep(name: str, node: Any) -> None:
        if isinstance(node, library.Dataset) and node.ndim >= 2 and node.dtype.kind in "biuf":
            found.append(name)

    file.visititems(keep)
    listed = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    if dataset is not None:
        wanted = dataset.strip("/")
        if wanted not in found:
            raise InputError(f"{path} has no image {dataset!r}", f"It holds {listed or 'none'}")
        return wanted
    if len(found) != 1:
        raise InputError(
            f"{path} holds {len(found)} images" + (f": {listed}" if found else ""),
            f"Name one: chunkflow import {path}:/{found[0]} DESTINATION"
            if found
            else "Export an array of two axes or more",
        )
    return found[0]


def _axes(found: Any) -> Sequence[str] | None:
    """Letters that the dataset states, if any."""
    tags = found.attrs.get("axistags")
    if tags is not None:
        try:
            return [str(axis["key"]) for axis in json.loads(tags)["axes"]]
        except (ValueError, KeyError, TypeError):
            return None
    labels = [dimension.label for dimension in found.dims]
    return labels if all(len(label) == 1 for label in labels) else None


def _voxel_size(found: Any, letters: str) -> tuple[MicrometerTriple | None, str]:
    stated = found.attrs.get("element_size_um")
    if stated is None:
        return None, "the dataset has no attribute element_size_um, so its voxel size is not known"
    sizes = [float(size) for size in np.ravel(stated)]
    planar = "z" not in letters
    if len(sizes) not in (3, 2 if planar else 3) or not is_size(sizes):
        return None, f"element_size_um is {sizes}, not a positive size for each of z, y, x"
    z, y, x = sizes if len(sizes) == 3 else (1.0, *sizes)
    if (z, y, x) == (1.0, 1.0, 1.0):
        return None, "element_size_um is 1.0 everywhere, as software writes that does not know it"
    return (z, y, x), "element_size_um"
