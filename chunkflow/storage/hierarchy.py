"""Folders of a zarr hierarchy: what each is, and which one image a folder means.

    image          -> itself                        Only the metadata files are read, without zarr, so a folder that is
    bioformats2raw -> its image, if it has one      no hierarchy, or half of one, gets an error that says so. A folder
    plate, well,                                    of several images is never guessed at: the error lists them.
    labels, level  -> an error that names images

Where no list names the images of a group, the metadata of each of its folders is read: slow for thousands of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, TypeAlias

from chunkflow.errors import InputError, InputNotFoundError
from chunkflow.storage.stores import Place

Attributes: TypeAlias = dict[str, Any]

_DEEPEST_SERIES = 3  # row, column and field of a plate
_IMPORT = "Import it: chunkflow import SOURCE DESTINATION --voxel-um Z Y X"


@dataclass(frozen=True, slots=True)
class Node:
    """One folder of a zarr hierarchy."""

    path: Place
    is_array: bool
    attributes: Attributes
    metadata_file: str

    @property
    def ome(self) -> Attributes:
        """The OME metadata, which 0.5 keeps one level deeper than 0.4."""
        nested = self.attributes.get("ome")
        return nested if isinstance(nested, dict) else self.attributes


def zarr_kind(folder: Place) -> Literal["array", "group"] | None:
    """What zarr node a folder is, if any."""
    node = _node(folder)
    return None if node is None else "array" if node.is_array else "group"


def _read_json(file: Place) -> Attributes | None:
    try:
        value = json.loads(file.read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON ({error})", "Restore the file") from error
    if not isinstance(value, dict):
        raise InputError(f"{file} is not a JSON object", "Restore the file")
    return value


def _node(folder: Place) -> Node | None:
    metadata = _read_json(folder / "zarr.json")
    if metadata is not None:
        return Node(folder, metadata.get("node_type") == "array", metadata.get("attributes") or {}, "zarr.json")
    for name in (".zarray", ".zgroup"):
        if (folder / name).is_file():
            return Node(folder, name == ".zarray", _read_json(folder / ".zattrs") or {}, ".zattrs")
    return None


def existing_node(folder: Place) -> Node:
    """The node that a folder must be; an error that says what is there instead."""
    node = _node(folder)
    if node is None:
        if folder.is_file():
            raise InputError(f"{folder} is a file, not the folder of an OME-Zarr image", _IMPORT)
        if not folder.exists():
            raise InputNotFoundError(f"{folder} does not exist", "Check the path")
        raise InputError(f"{folder} is not an OME-Zarr image: it has neither zarr.json nor .zgroup", _IMPORT)
    return node


def image_node(node: Node) -> Node:
    """The one image that a folder means; an error that lists the images where there are several."""
    if node.is_array:
        raise _not_an_image(node)
    ome = node.ome
    if "multiscales" in ome:
        return node
    if "plate" in ome:
        wells = _paths(ome["plate"], "wells")
        raise _several(node, f"a plate of {len(wells)} wells", [f"{well}/0" for well in wells])
    if "well" in ome:
        fields = _paths(ome["well"], "images")
        raise _several(node, f"a well of {len(fields)} images", fields)
    if "labels" in ome:
        names = [str(name) for name in ome["labels"]] if isinstance(ome["labels"], list) else []
        raise _several(node, f"{len(names)} label images", names)
    images = _series(node) if "bioformats2raw.layout" in ome else _child_images(node)
    if len(images) == 1 and "bioformats2raw.layout" in ome:
        return image_node(existing_node(folder_inside(node, images[0])))
    raise _several(node, f"{len(images)} images", images) if images else _none(node)


def images_below(path: Place) -> list[str]:
    """Where the images of a group lie below it: [""] is the group itself; of a plate, every field of every well.

    Raises
    ------
    InputError : the folder is no group of images.
    """
    node = existing_node(path)
    ome = node.ome
    if node.is_array or "multiscales" in ome:
        return [""]
    if "plate" in ome:
        wells = [(well, _node(folder_inside(node, well))) for well in _paths(ome["plate"], "wells")]
        return [f"{name}/{field}" for name, well in wells if well for field in _paths(well.ome.get("well"), "images")]
    if "well" in ome:
        return _paths(ome["well"], "images")
    images = _series(node) if "bioformats2raw.layout" in ome else _child_images(node)
    if not images:
        raise _none(node)
    return images


def _paths(holder: Any, key: str) -> list[str]:
    entries = holder.get(key) if isinstance(holder, dict) else None
    found = entries if isinstance(entries, list) else []
    return [str(entry["path"]) for entry in found if isinstance(entry, dict) and "path" in entry]


def _not_an_image(node: Node) -> InputError:
    parent = _node(node.path.parent)
    if parent is not None and "multiscales" in parent.ome:
        return InputError(f"{node.path} is one level of an image", f"Give the folder of the image: {parent.path}")
    return InputError(f"{node.path} is a zarr array without OME metadata: its voxel size is not known", _IMPORT)


def _none(node: Node) -> InputError:
    if labels := _label_images(node):
        listed = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
        return InputError(
            f"{node.path} holds no image, only labels: {listed}",
            f"Give them as labels: input: {{path: {node.path / 'labels' / labels[0]}, kind: labels}}",
        )
    arrays = [folder.name for folder in node.path.iterdir() if (child := _node(folder)) and child.is_array]
    if not arrays:
        return InputError(f"{node.path} holds no image", "Give the folder of an image")
    listed = ", ".join(sorted(arrays)[:8]) + (", ..." if len(arrays) > 8 else "")
    return InputError(
        f"{node.path} holds no image, only arrays without a voxel size: {listed}",
        f"Import one: chunkflow import SOURCE DESTINATION --dataset {min(arrays)} --voxel-um Z Y X",
    )


def _label_images(node: Node) -> list[str]:
    """Names of the label images of a group."""
    folder = _node(node.path / "labels")
    if folder is None or folder.is_array:
        return []
    listed = folder.ome.get("labels")
    return [str(name) for name in listed] if isinstance(listed, list) else _child_images(folder)


def _several(node: Node, what: str, images: Sequence[str]) -> InputError:
    listed = ", ".join(str(node.path / image) for image in images[:8]) + (", ..." if len(images) > 8 else "")
    return InputError(f"{node.path} holds {what}, not one", f"Give one of them: {listed}" if images else _IMPORT)


def _series(node: Node) -> list[str]:
    """Images of a bioformats2raw layout: those that its OME group lists, else the numbered folders."""
    return _listed_series(node.path) or _child_images(node)


def _listed_series(root: Place) -> list[str]:
    listing = _node(root / "OME")
    series = listing.ome.get("series") if listing is not None else None
    return [str(name) for name in series] if isinstance(series, list) else []


def series_metadata(image: Node) -> tuple[Place, int] | None:
    """The OME-XML that bioformats2raw puts beside its images, and which of them this one is; None without it."""
    above: Sequence[Place] = image.path.absolute().parents
    for root in list(above)[:_DEEPEST_SERIES]:
        file = root / "OME" / "METADATA.ome.xml"
        node = _node(root) if file.is_file() else None
        if node is None or "bioformats2raw.layout" not in node.ome:
            continue
        name = str(image.path.absolute())[len(str(root)) + 1 :]
        series = _listed_series(root)
        if series:
            return (file, series.index(name)) if name in series else None
        return (file, int(name)) if name.isdecimal() else None
    return None


def _child_images(node: Node) -> list[str]:
    entries: Iterable[Place] = node.path.iterdir()
    folders = list(entries)
    folders.sort(key=lambda folder: (not folder.name.isdigit(), len(folder.name), folder.name))
    nodes = [(folder.name, _node(folder)) for folder in folders]
    return [name for name, child in nodes if child is not None and "multiscales" in child.ome]


def folder_inside(node: Node, name: str) -> Place:
    """A folder that metadata names, which must lie inside the image."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise InputError(f"{node.path} names the path {name!r}, which lies outside it", "Correct the metadata")
    return node.path / relative
