"""One dataset of an N5 container, as Fiji's N5 plugins and the tools of Janelia write them (needs tensorstore).

    FOLDER.n5:/path/to/dataset, or `dataset`; of s0, s1, ... of one image s0 is meant

N5 lists dimensions fastest first: x, y, z, and then c and t where Fiji writes them. The voxel size comes from

    pixelResolution  {dimensions, unit}, of the dataset or a group around it, times downsamplingFactors
    resolution       with `units`, of Fiji's N5 plugin
    transform        {axes, scale, translate, units}, of COSEM

An lz4-compressed dataset cannot be read by tensorstore, which says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.errors import InputError, UsageError
from chunkflow.geometry.scale import MicrometerTriple, um_per
from chunkflow.storage.image_source import ArraySource, Index, is_size, letters_of, native, no_length, unknown_unit

_METADATA = "attributes.json"
_SHOWN = 12
_FASTEST_FIRST = {2: "xy", 3: "xyz", 4: "xyzc", 5: "xyczt"}
_ZERO = (0.0, 0.0, 0.0)


def is_n5(folder: Path) -> bool:
    """Whether a folder is an N5 container, or a group or dataset of one."""
    return folder.suffix.lower() == ".n5" or (folder / _METADATA).is_file()


def n5_source(folder: Path, *, dataset: str | None = None, axes: str | None = None) -> ArraySource:
    """Open a dataset without reading its voxels.

    Parameters
    ----------
    axes : slowest first, as for numpy: ZYX is what N5 calls x, y, z.

    Raises
    ------
    UsageError : tensorstore is not installed.
    InputError : there is no such dataset, or there are several and none is named, or it cannot be read.
    """
    where = _chosen(folder, dataset)
    attributes = _attributes(where)
    dimensions = [int(length) for length in attributes["dimensions"]]
    lengths = tuple(reversed(dimensions))
    own = _own_axes(attributes) or _FASTEST_FIRST.get(len(dimensions), "")
    letters = letters_of(axes, own[::-1] or None, lengths, str(where))
    array = _opened(where)
    voxel_um, origin, source = _calibration(folder, where, letters)

    def read(index: Index) -> Any:
        try:
            return np.transpose(array[tuple(reversed(index))].read().result())
        except Exception as error:  # tensorstore raises ValueError and kinds of its own
            raise InputError(f"{where} cannot be read ({error})", "Restore its files") from error

    return ArraySource(
        name=str(where),
        letters=letters,
        lengths=lengths,
        dtype=native(array.dtype.numpy_dtype, str(where)),
        read=read,
        voxel_um=voxel_um,
        voxel_source=source,
        own_voxel_um=f"write pixelResolution to its {_METADATA}",
        translation_um=origin,
    )


def _opened(where: Path) -> Any:
    try:
        import tensorstore
    except ImportError as error:
        remedy = "pip install 'chunkflow-engine[n5]'"
        raise UsageError("N5 needs tensorstore, which is not installed", remedy) from error
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{where.resolve()}/"}}
    try:
        return tensorstore.open(spec, read=True).result()
    except ValueError as error:
        said = str(error).split(" [")[0]  # what follows is the whole of its own settings
        raise InputError(f"{where} cannot be read as N5 ({said})", "Export it again, with gzip") from error


def _attributes(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / _METADATA).read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{folder / _METADATA} is not valid JSON ({error})", "Restore the file") from error
    return found if isinstance(found, dict) else {}


def _refuse_constant(name: str) -> None:
    """NaN and Infinity, which Python would take and tensorstore does not."""
    raise ValueError(f"{name} is no number of JSON")


def _is_dataset(attributes: Mapping[str, Any]) -> bool:
    return "dimensions" in attributes and "dataType" in attributes


def _chosen(folder: Path, dataset: str | None) -> Path:
    where = folder if dataset is None else folder / dataset
    if folder.resolve() not in (where.resolve(), *where.resolve().parents):
        raise InputError(f"the dataset {dataset!r} lies outside {folder}", "Name one inside it")
    if _is_dataset(_attributes(where)):
        return where
    found = [str(path.relative_to(folder)) for path in _datasets(where)]
    finest = [name for name in found if Path(name).name == "s0"]
    if len(finest) == 1 and all(Path(name).parent == Path(finest[0]).parent for name in found):
        return folder / finest[0]
    if len(found) == 1:
        return folder / found[0]
    listed = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    raise InputError(
        f"{where} holds {len(found)} N5 datasets" + (f": {listed}" if found else ""),
        f"Name one: chunkflow import {folder}:/{found[0]} DESTINATION"
        if found
        else "Give the N5 container, or a dataset in it",
    )


def _datasets(folder: Path) -> Iterator[Path]:
    """Every dataset below a folder; blocks of datasets are not looked at."""
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir():
            if _is_dataset(_attributes(entry)):
                yield entry
            else:
                yield from _datasets(entry)


def _own_axes(attributes: Mapping[str, Any]) -> str:
    """Letters of the dimensions, fastest first, as Fiji's plugins state them; empty where they do not."""
    axes = attributes.get("axes")
    count = len(attributes["dimensions"])
    if isinstance(axes, list) and len(axes) == count and all(isinstance(name, str) and len(name) == 1 for name in axes):
        return "".join(axes).lower()
    return ""


def _calibration(root: Path, where: Path, letters: str) -> tuple[MicrometerTriple | None, MicrometerTriple, str]:
    """Voxel size and origin in um, and where they were found."""
    attributes = _attributes(where)
    factors = [float(factor) for factor in attributes.get("downsamplingFactors", ())]
    spatial = [letter for letter in reversed(letters) if letter in "zyx"]
    folders = [where, *(parent for parent in where.parents if parent == root or root in parent.parents)]
    for folder in folders:
        stated = _attributes(folder).get("pixelResolution")
        if isinstance(stated, dict):
            units = [stated.get("unit")] * len(spatial)
            sizes = _sizes(spatial, stated.get("dimensions"), units, factors)
            return _settled(sizes, "pixelResolution", spatial, units)
    transform = attributes.get("transform")
    if isinstance(transform, dict):
        named = [str(axis).lower() for axis in transform.get("axes", ())]
        units = list(transform.get("units", ()))
        sizes = _sizes(named, transform.get("scale"), units, ())
        origin = _sizes(named, transform.get("translate"), units, ())
        return _settled(sizes, "transform", spatial, units, origin)
    units = list(attributes.get("units", ()))
    sizes = _sizes(spatial, attributes.get("resolution"), units, ())
    return _settled(sizes, "resolution and units", spatial, units)


def _sizes(axes: Sequence[str], values: Any, units: Sequence[Any], factors: Sequence[float]) -> dict[str, float]:
    """Lengths in um along the axes whose unit is one of length."""
    if not isinstance(values, list) or len(values) < len(axes) or len(units) < len(axes):
        return {}
    found = {}
    for number, axis in enumerate(axes):
        um = um_per(str(units[number]))
        if um is not None:
            found[axis] = float(values[number]) * um * (factors[number] if number < len(factors) else 1.0)
    return found


def _settled(
    sizes: Mapping[str, float],
    place: str,
    spatial: Sequence[str],
    units: Sequence[Any],
    origin: Mapping[str, float] | None = None,
) -> tuple[MicrometerTriple | None, MicrometerTriple, str]:
    if not set(spatial) <= set(sizes):
        unit = unknown_unit(units)
        said = no_length(unit, place) if unit else "the dataset states no voxel size in a unit of length"
        return None, _ZERO, said
    z, y, x = (sizes.get(letter, 1.0) for letter in "zyx")
    if not is_size((z, y, x)) or (z, y, x) == (1.0, 1.0, 1.0):
        return None, _ZERO, f"the dataset gives a voxel size of {z:g}, {y:g}, {x:g} um ({place}), which cannot be meant"
    first = origin or {}
    return (z, y, x), (first.get("z", 0.0), first.get("y", 0.0), first.get("x", 0.0)), place
