"""The metadata of OME-Zarr 0.4 and 0.5 that we write: whole or not there, the same bytes for the same facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from chunkflow.errors import UsageError
from chunkflow.geometry.scale import Scale
from chunkflow.storage.files import remove_files, write_atomic
from chunkflow.storage.hierarchy import Attributes
from chunkflow.storage.omezarr import OWN, ZARR_FORMAT, Channel, Format
from chunkflow.storage.optics import Optics
from chunkflow.storage.stores import Place, place_of

_COLORS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")


def write_image_group(
    path: str | Place,
    *,
    name: str,
    levels: Mapping[str, Scale],
    format: Format = "0.5",
    axes: str = "zyx",
    channels: Sequence[Channel] = (),
    default_z: int = 0,
    labels: bool = False,
    optics: Sequence[Optics] = (),
) -> None:
    """Write the metadata of an image whose arrays lie in subfolders.

    Parameters
    ----------
    levels : subfolder -> scale of its voxels, finest first.
    axes : one letter per axis of the arrays, of t, c, z, y, x in this order.
    channels : how to show them; may be left out.
    default_z : plane that viewers of planes show first.
    labels : whether the voxels are object ids of the image two folders up.
    optics : facts of each channel (see `storage.optics`), in an attribute of our own beside those of OME.
    """
    _check_format(format)
    multiscale: Attributes = {
        "name": name,
        "axes": [_axis(letter) for letter in axes],
        "datasets": [_dataset(subfolder, scale, axes) for subfolder, scale in levels.items()],
    }
    if format == "0.4":
        multiscale = {"version": format, **multiscale}
    ome: Attributes = {"multiscales": [multiscale]}
    if channels:
        shown = [_omero(channel, i, len(channels)) for i, channel in enumerate(channels)]
        model = "greyscale" if [entry["color"] for entry in shown] == ["FFFFFF"] else "color"
        ome["omero"] = {
            "name": name,
            "channels": shown,
            "rdefs": {"defaultT": 0, "defaultZ": default_z, "model": model},
        }
    if labels:
        version = {"version": format} if format == "0.4" else {}
        ome["image-label"] = {**version, "source": {"image": "../../"}}
    own: Attributes = {OWN: {"optics": [dict(facts) for facts in optics]}} if any(optics) else {}
    write_group(path, ome, format=format, beside=own)


def write_labels_group(path: str | Place, names: Sequence[str], *, format: Format = "0.5") -> None:
    """Write the metadata of a `labels` folder that lists the label images in it."""
    write_group(path, {"labels": list(names)}, format=format)


def write_group(
    path: str | Place,
    ome: Attributes | None = None,
    *,
    format: Format = "0.5",
    beside: Attributes | None = None,
) -> None:
    """Write the metadata of a zarr group; the other format's is removed.

    Parameters
    ----------
    ome : OME attributes, without the level that 0.5 puts around them.
    beside : attributes that are none of OME's.
    """
    _check_format(format)
    folder = place_of(path)
    if format == "0.5":
        attributes = {**({"ome": {"version": format, **ome}} if ome else {}), **(beside or {})}
        write_atomic(folder / "zarr.json", _json({"zarr_format": 3, "node_type": "group", "attributes": attributes}))
        others: tuple[str, ...] = (".zgroup", ".zattrs")
    else:
        write_atomic(folder / ".zgroup", _json({"zarr_format": 2}))
        write_atomic(folder / ".zattrs", _json({**(ome or {}), **(beside or {})}))
        others = ("zarr.json",)
    remove_files(folder, others)


def _check_format(format: str) -> None:
    if format not in ZARR_FORMAT:
        raise UsageError(f"OME-Zarr {format!r} cannot be written", 'Choose "0.5" or "0.4"')


def _json(value: Attributes) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _axis(letter: str) -> Attributes:
    kind = {"t": "time", "c": "channel"}.get(letter, "space")
    unit = {"unit": "micrometer"} if kind == "space" else {}
    return {"name": letter, "type": kind, **unit}


def _dataset(subfolder: str, scale: Scale, axes: str) -> Attributes:
    voxel = dict(zip("zyx", scale.voxel_um, strict=True))
    origin = dict(zip("zyx", scale.translation_um, strict=True))
    return {
        "path": subfolder,
        "coordinateTransformations": [
            {"type": "scale", "scale": [voxel.get(letter, 1.0) for letter in axes]},
            {"type": "translation", "translation": [origin.get(letter, 0.0) for letter in axes]},
        ],
    }


def _omero(channel: Channel, index: int, count: int) -> Attributes:
    low, high = channel.window
    least, largest = channel.limits or channel.window
    color = channel.color or ("FFFFFF" if count == 1 else _COLORS[index % len(_COLORS)])
    return {
        "label": channel.name,
        "color": color,
        "active": True,
        "coefficient": 1.0,
        "family": "linear",
        "inverted": False,
        "window": {"min": least, "max": largest, "start": low, "end": high},
    }
