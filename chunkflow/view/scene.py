"""What there is to look at in a folder: layers, where their voxels lie, and tables, from metadata alone.

    OUT/                              a result, here or behind a URL
      image.ome.zarr                  -> image          with the contrast its metadata name
        labels/objects                -> objects        with graph/precomputed as their skeletons
        labels/skeleton, mask, ...    -> hidden at first
      probability.ome.zarr            -> hidden at first, unless it is the only image
      tables/nodes.parquet            -> nodes
    IMAGE.ome.zarr/                   any OME-Zarr image of z, y, x alone, with its labels

A folder behind a URL is asked for the same small files, and for no list of them. No voxel is touched. Tables
are read whole: two columns of the objects, eight of the nodes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chunkflow.errors import InputError, InputNotFoundError
from chunkflow.geometry.box import Triple, triple
from chunkflow.geometry.scale import Scale, micrometer_triple, um_per
from chunkflow.storage.stores import ObjectPath, Place, place_of

IMAGES = {"image": "image.ome.zarr", "probability": "probability.ome.zarr"}
PRECOMPUTED = "graph/precomputed"
ANNOTATIONS = "graph/nodes"
NODE_COLUMNS = ("node_id", "object_id", "z_um", "y_um", "x_um", "degree", "radius_um", "kind")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layer:
    """One array, with its pyramid."""

    name: str
    path: str
    """Inside the folder, empty where the folder is the image itself."""
    is_labels: bool
    is_visible: bool = True
    window: tuple[float, float] | None = None
    """Values shown as black and as full colour."""
    limits: tuple[float, float] | None = None
    color: str = "FFFFFF"


@dataclass(frozen=True)
class Scene:
    """All that can be shown of a folder."""

    place: Place
    shape: Triple
    scale: Scale
    layers: tuple[Layer, ...]
    has_skeletons: bool
    levels: int = field(default=1)
    """Of the pyramid of the first layer."""

    @property
    def name(self) -> str:
        """The folder's."""
        return self.place.name

    @cached_property
    def has_annotations(self) -> bool:
        """Whether the nodes are there as precomputed annotations."""
        return _read(self.place, f"{ANNOTATIONS}/info") is not None

    @cached_property
    def nodes(self) -> pd.DataFrame:
        """The graph's nodes, with their object, position, degree, radius and kind; empty without a graph."""
        return self._table("nodes", NODE_COLUMNS)

    @cached_property
    def object_sizes(self) -> pd.Series[float]:
        """Voxels of every object that has a skeleton, by its id, 0 where they are not known; largest first."""
        ids = np.unique(self.nodes["object_id"].to_numpy(np.uint64))
        objects = self._table("objects", ("object_id", "volume_vox"))
        sizes = objects.set_index("object_id")["volume_vox"].reindex(ids).fillna(0).astype(np.float64)
        return sizes.sort_values(ascending=False, kind="stable")

    @property
    def largest_objects(self) -> NDArray[np.uint64]:
        """Ids of objects that have a skeleton, largest first."""
        return self.object_sizes.index.to_numpy(np.uint64)

    def _table(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        content = _read(self.place, f"tables/{name}.parquet")
        if content is None:
            return pd.DataFrame({column: [] for column in columns})
        return pd.read_parquet(BytesIO(content), columns=list(columns))


def open_place(location: str | Place) -> Place:
    """A folder of this machine, which must be there, or one behind a URL.

    Raises
    ------
    InputNotFoundError : no such folder.
    InputError : a URL of an unknown kind.
    """
    place = place_of(location if isinstance(location, Path | ObjectPath) else location.rstrip("/"))
    if isinstance(place, Path) and not place.is_dir():
        raise InputNotFoundError(f"{location} is not a folder", "Give the output folder of chunkflow run, or an image")
    return place.resolve()


def holds_result(location: str | Place) -> bool:
    """Whether a place is the output of a run that has an image or labels to show.

    Raises
    ------
    ChunkflowError : it is a URL that cannot be asked.
    """
    place = place_of(location)
    labels = _ome(place, f"{IMAGES['image']}/labels").get("labels")
    return bool(labels) or any("multiscales" in _ome(place, path) for path in IMAGES.values())


def open_scene(location: str | Place) -> Scene:
    """What there is to look at: the result of a run, or an OME-Zarr image, here or behind a URL.

    Raises
    ------
    InputError : neither is there, or its axes are not z, y, x in a known unit.
    """
    place = open_place(location)
    itself = _ome(place, "")
    if "multiscales" in itself:
        layers = [_image(place, "image", ""), *_labels(place, "labels")]
    else:
        layers = [_image(place, name, path) for name, path in IMAGES.items() if "multiscales" in _ome(place, path)]
        layers += _labels(place, f"{IMAGES['image']}/labels")
    if not layers:
        raise InputError(
            f"{place} holds no image and no labels to show",
            "Give the output folder of a run that is complete (chunkflow status OUT), or an OME-Zarr image",
        )
    shape, scale, levels = _geometry(place, layers[0].path)
    has_skeletons = _read(place, f"{PRECOMPUTED}/info") is not None
    return Scene(place, shape, scale, tuple(_with_one_image(layers)), has_skeletons, levels)


def levels_of(place: Place, path: str) -> int:
    """How many levels the pyramid of an image or of labels has; 0 where its metadata name none."""
    multiscales = _ome(place, path).get("multiscales") or [{}]
    return len(multiscales[0].get("datasets") or ())


def _with_one_image(layers: Sequence[Layer]) -> list[Layer]:
    """Only the first image is shown at first, and only the objects of the labels (or the first, without objects)."""
    first = next((layer for layer in layers if not layer.is_labels), None)
    labels = [layer for layer in layers if layer.is_labels]
    objects = next((layer for layer in labels if layer.name == "objects"), labels[0] if labels else None)
    return [_seen(layer, layer in (first, objects)) for layer in layers]


def _seen(layer: Layer, is_visible: bool) -> Layer:
    return Layer(layer.name, layer.path, layer.is_labels, is_visible, layer.window, layer.limits, layer.color)


def _image(place: Place, name: str, path: str) -> Layer:
    omero = _ome(place, path).get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    shown = channels[0] if isinstance(channels, list) and channels and isinstance(channels[0], dict) else {}
    window = shown.get("window") or {}
    return Layer(
        name,
        path,
        is_labels=False,
        window=_pair(window, "start", "end"),
        limits=_pair(window, "min", "max"),
        color=str(shown.get("color") or "FFFFFF").lstrip("#"),
    )


def _pair(window: Json, low: str, high: str) -> tuple[float, float] | None:
    if low not in window or high not in window or not float(window[low]) < float(window[high]):
        return None
    return float(window[low]), float(window[high])


def _labels(place: Place, path: str) -> list[Layer]:
    """Every label image that the list names, objects first: they are drawn below the others."""
    names = sorted(map(str, _ome(place, path).get("labels") or ()), key=lambda name: name != "objects")
    return [Layer(name, f"{path}/{name}", is_labels=True) for name in names]


def _ome(place: Place, path: str) -> Json:
    """OME attributes of a group, those of 0.5 or of 0.4; empty where nothing is."""
    prefix = f"{path}/" if path else ""
    found = _json(place, f"{prefix}zarr.json")
    if found is not None:
        attributes = found.get("attributes") or {}
        return dict(attributes.get("ome") or {})
    return _json(place, f"{prefix}.zattrs") or {}


def _geometry(place: Place, path: str) -> tuple[Triple, Scale, int]:
    """Shape and scale of the finest level, and how many levels there are."""
    multiscale = _ome(place, path)["multiscales"][0]
    where = f"{place}/{path}".rstrip("/")
    axes = multiscale.get("axes") or []
    letters = "".join(str(axis.get("name", "")) for axis in axes)
    if letters != "zyx":
        raise InputError(
            f"{where} has the axes {', '.join(letters) or 'of an old version'}; z, y, x can be shown",
            "Open it with napari --plugin napari-ome-zarr, or view the result of a run",
        )
    um = [um_per(str(axis.get("unit"))) for axis in axes]
    if None in um:
        raise InputError(f"{where} names no unit of length for its axes", "Add a unit to the metadata")
    factors = np.array(um, float)
    level = multiscale["datasets"][0]
    voxel, origin = np.ones(3), np.zeros(3)
    steps = (level.get("coordinateTransformations") or []) + (multiscale.get("coordinateTransformations") or [])
    for step in steps:
        if step["type"] == "scale":
            voxel, origin = voxel * step["scale"], origin * step["scale"]
        elif step["type"] == "translation":
            origin = origin + step["translation"]
    prefix = f"{path}/{level['path']}" if path else str(level["path"])
    array = _json(place, f"{prefix}/zarr.json") or _json(place, f"{prefix}/.zarray")
    if array is None:
        raise InputError(f"{place}/{prefix} is not there", "The image is not whole: copy it again")
    scale = Scale(micrometer_triple((voxel * factors).tolist()), micrometer_triple((origin * factors).tolist()))
    return triple(array["shape"]), scale, len(multiscale["datasets"])


def _read(place: Place, name: str) -> bytes | None:
    """What a file holds, None where it is not there."""
    file = place / name
    return file.read_bytes() if file.is_file() else None


def _json(place: Place, name: str) -> Json | None:
    content = _read(place, name)
    if content is None:
        return None
    try:
        value = json.loads(content)
    except ValueError as error:
        raise InputError(f"{place}/{name} is not valid JSON", "Restore the file") from error
    return value if isinstance(value, dict) else None
