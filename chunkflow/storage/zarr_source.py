"""Another zarr as an image to import: a bare array, an array of a group, or an OME-Zarr image of any version.

array                          axes named by --axes, z y x for three; the voxel size is asked for
group with `dataset`           the array of that path
OME-Zarr 0.4, 0.5              voxel size, origin, names, colours and contrast are kept
OME-Zarr 0.1 to 0.3            axes and names are kept; they state no voxel size in a unit
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from chunkflow.errors import InputError
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import MicrometerTriple, Scale
from chunkflow.storage.hierarchy import existing_node, folder_inside, image_node
from chunkflow.storage.image_source import IMPORT_ALONE, ChannelStyle, native
from chunkflow.storage.omezarr import image_facts, shown_channels
from chunkflow.storage.optics import Optics
from chunkflow.storage.stores import place_of
from chunkflow.storage.volume import Volume, open_array

_OLD = ("0.1", "0.2", "0.3")
_OLD_AXES = "tczyx"
_UNKNOWN = Scale((1.0, 1.0, 1.0))


class ZarrSource:
    """An image of zarr, read box by box."""

    def __init__(
        self,
        volume: Volume,
        voxel_source: str | None,
        styles: tuple[ChannelStyle, ...] = (),
        optics: tuple[Optics, ...] = (),
    ) -> None:
        lengths = dict(zip(volume.axes, volume.array.shape, strict=True))
        count = lengths.get("c", 1)
        self._volume = volume
        self.name = str(volume.path)
        self.axes = "".join(letter for letter in "tc" if letter in lengths) + "zyx"
        self.shape = tuple(lengths.get(letter, 1) for letter in self.axes)
        self.dtype = native(volume.dtype, self.name)
        self.voxel_um: MicrometerTriple | None = None if voxel_source else volume.scale.voxel_um
        self.voxel_source = voxel_source or "OME-Zarr metadata"
        self.own_voxel_um = IMPORT_ALONE
        self.translation_um = volume.scale.translation_um
        self.styles = styles if len(styles) == count else (ChannelStyle(),) * count
        self.optics = optics if len(optics) == count else ({},) * count

    def fill(self, out: NDArray[Any], *, z: int = 0, c: int = 0, t: int = 0) -> None:
        """Read planes from `z` on into `out`, shape (planes, Y, X)."""
        at = tuple({"c": c, "t": t}[letter] for letter in self._volume.axes if letter in "tc")
        _, y, x = self._volume.shape
        out[...] = replace(self._volume, at=at).read(Box((z, 0, 0), (z + len(out), y, x)))


def zarr_source(path: str | Path, *, dataset: str | None = None, axes: str | None = None) -> ZarrSource:
    """Open an image without reading its voxels.

    Raises
    ------
    InputError : it is no image, or a group of several, or its axes cannot be told.
    """
    node = existing_node(place_of(path))
    letters = axes.lower() if axes else None
    if node.is_array or dataset is not None:
        folder = node.path if dataset is None else folder_inside(node, dataset)
        volume = open_array(folder, _UNKNOWN, axes=letters, read_only=True)
        return ZarrSource(volume, "a zarr array without OME metadata states no voxel size")
    image = image_node(node)
    entries = image.ome["multiscales"]
    first = entries[0] if isinstance(entries, list) and entries and isinstance(entries[0], dict) else {}
    if str(first.get("version")) in _OLD:
        return _old(image, first, letters)
    facts = image_facts(str(image.path))
    level = facts.levels[0]
    shown = shown_channels(str(image.path))
    styles = tuple(ChannelStyle(name=known.name, color=known.color, window=known.window) for known in shown)
    named = tuple(ChannelStyle(name=name) for name in facts.channels)
    kept = styles if len(styles) == len(named) else named
    return ZarrSource(replace(level, at=()), None, kept, facts.optics)


def _old(image: Any, multiscale: dict[str, Any], axes: str | None) -> ZarrSource:
    """An image of OME-Zarr 0.1 to 0.3: axes are letters, or all five."""
    named = multiscale.get("axes")
    try:
        path = str(multiscale["datasets"][0]["path"])
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{image.path} names no array", "Name it: chunkflow import SOURCE DESTINATION --dataset NAME"
        ) from error
    letters = axes or ("".join(map(str, named)) if isinstance(named, list) else _OLD_AXES)
    volume = open_array(folder_inside(image, path), _UNKNOWN, axes=letters, read_only=True)
    version = multiscale.get("version")
    styles = tuple(
        ChannelStyle(name=known.name, color=known.color, window=known.window)
        for known in shown_channels(str(image.path))
    )
    return ZarrSource(volume, f"OME-Zarr {version} states no voxel size in a unit", styles)
