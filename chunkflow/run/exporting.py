"""From a result, or any OME-Zarr image, to the files of other programs.

    tiff    OUT/export/NAME.tif            every array that was saved, calibrated; channels of the input beside them
    csv     OUT/export/NAME.csv            every table, units in the headers
    xlsx    OUT/export/tables.xlsx         every table as a sheet, and what its columns mean
    swc     OUT/export/swc/ID.swc          the skeleton of every object
    mesh    OUT/export/meshes/ID.ply       the surface of every object, and meshes.csv with their volumes

A region leaves out what lies outside: voxels; objects whose centroid does; nodes, and branches that lead there.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import InputNotFoundError, UsageError
from chunkflow.geometry.box import Box
from chunkflow.geometry.region import parse_region
from chunkflow.geometry.scale import Scale
from chunkflow.run.batch_status import check_one_result
from chunkflow.run.export_mesh import SURFACES, MeshSurface, export_meshes
from chunkflow.run.export_swc import export_swc
from chunkflow.run.export_tables import export_csv, export_xlsx
from chunkflow.run.export_tiff import Layer, export_tiff
from chunkflow.run.places import run_folder
from chunkflow.run.result import Result, open_result
from chunkflow.storage.channels import channel_shown
from chunkflow.storage.files import atomic_path
from chunkflow.storage.hierarchy import zarr_kind
from chunkflow.storage.meshes import FORMATS, MeshFacts, MeshFormat
from chunkflow.storage.omezarr import image_facts, open_volume
from chunkflow.storage.spreadsheets import table_names
from chunkflow.storage.stores import Place, place_of
from chunkflow.storage.volume import Volume, local_path

To: TypeAlias = Literal["tiff", "csv", "xlsx", "swc", "mesh"]

TARGETS: tuple[To, ...] = ("tiff", "csv", "xlsx", "swc", "mesh")
_LABELS = ("labels", "mask", "classes", "skeleton")
_FILES = {"labels": "objects"}  # what an array is called where people look at it


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    files : all of them
    notes : what is worth knowing of them, a line each
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What of it, and where to."""

    folder: Path
    region: str | None
    objects: Collection[int] | None
    channels: Sequence[str] | None
    source: str | Path | None
    mesh_format: MeshFormat
    mesh_surface: MeshSurface
    overwrite: bool
    on_step: Callable[[int, int], None] | None


def export(
    path: str | Path,
    to: To,
    output: str | Path | None = None,
    *,
    region: str | None = None,
    objects: Collection[int] | None = None,
    channels: Sequence[str] | None = None,
    source: str | Path | None = None,
    mesh_format: MeshFormat = "ply",
    mesh_surface: MeshSurface = "volume",
    overwrite: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write a result, or an OME-Zarr image, as files of other programs.

    Parameters
    ----------
    path : output folder of a complete run; for tiff and mesh an OME-Zarr image too.
    to : tiff, csv, xlsx, swc or mesh.
    output : folder to write to; `export` in the result, whose files are then replaced.
    region : voxels or um, as `geometry.region` reads it.
    objects : ids of the objects wanted, for tables, swc and mesh.
    channels : tiff: channels of the input to write beside the labels in channels.tif, or "all"; the one that was
        processed is shown as the result has it.
    source : the input, if it has moved since the run.
    mesh_format : ply, stl or precomputed.
    mesh_surface : volume or halfway, see `export_mesh.export_meshes`.
    overwrite : replace files in `output`.

    Raises
    ------
    UsageError : the result does not hold what is to be exported, or files are there already.
    """
    if to not in TARGETS:
        raise UsageError(f"{to!r} is nothing that can be exported to", f"Choose one of {', '.join(TARGETS)}")
    if mesh_format not in FORMATS:
        raise UsageError(f"meshes cannot be written as {mesh_format!r}", f"Choose one of {', '.join(FORMATS)}")
    if mesh_surface not in SURFACES:
        raise UsageError(f"meshes have no surface {mesh_surface!r}", f"Choose one of {', '.join(SURFACES)}")
    if channels and to != "tiff":
        raise UsageError(f"--channels says nothing for {to}", "Leave it out, or export to tiff")
    if objects is not None and min(objects, default=1) < 1:
        raise UsageError(f"--objects {min(objects)} is no id of an object", "Ids are 1 and above, see tables/objects")
    if objects is not None and to == "tiff":
        raise UsageError("--objects says nothing for tiff", "Leave it out, or choose a --region")
    place = place_of(path)
    check_one_result(place)
    is_result = (run_folder(place) / "journal.jsonl").exists()
    if isinstance(place, Path) and not place.exists():
        raise InputNotFoundError(f"{path} does not exist", "Give the output folder of chunkflow run, or an image")
    if output is None and not (is_result and isinstance(place, Path)):
        raise UsageError(f"{path} is no result on this machine, and no folder to write to is named", "Add -o FOLDER")
    wanted = _Wanted(
        folder=Path(place, "export") if output is None and isinstance(place, Path) else local_path(output or ""),
        region=region,
        objects=objects,
        channels=channels,
        source=source,
        mesh_format=mesh_format,
        mesh_surface=mesh_surface,
        overwrite=overwrite or output is None,
        on_step=on_step,
    )
    if not is_result:
        return _export_image(place, to, wanted)
    result = open_result(place)
    steps = {"tiff": _tiff, "csv": _csv, "xlsx": _xlsx, "swc": _swc, "mesh": _mesh}
    return steps[to](result, wanted)


def _export_image(path: Place, to: To, wanted: _Wanted) -> Exported:
    """An image that no run made: all its channels as one TIFF, or its labels as meshes."""
    if to == "mesh":
        done = _meshes(open_volume(path), wanted)
        if image_facts(path).is_labels:
            return done
        note = f"{path} does not say that it holds labels: each of its values was taken for an object"
        return replace(done, notes=(*done.notes, note))
    if to != "tiff":
        raise UsageError(f"{path} is an image, which has no {to}", "Give the output folder of chunkflow run")
    facts = image_facts(path)
    if facts.times > 1:
        raise UsageError(
            f"{path} holds {facts.times} time points", "Run it, or export one of them with another program"
        )
    names = [name or f"channel_{number}" for number, name in enumerate(facts.channels)]
    layers = [_layer(open_volume(path, channel=number), name) for number, name in enumerate(names)]
    target = _free(wanted, f"{path.name.split('.')[0]}.tif")
    return _written_tiffs([(target, layers)], layers[0].volume, wanted)


def _layer(volume: Volume, name: str) -> Layer:
    return Layer(volume, channel_shown(volume), name)


def _free(wanted: _Wanted, name: str) -> Path:
    """A file to write."""
    target = wanted.folder / name
    if target.exists() and not wanted.overwrite:
        raise UsageError(f"{target} exists", "Choose another folder, or add --overwrite")
    return target


def _grid(result: Result) -> Volume:
    """Any array of the result: they lie on one grid."""
    for name in ("labels", "image", "probability", "mask", "classes", "skeleton"):
        found = getattr(result, name)
        if found is not None:
            volume: Volume = found.volume
            return volume
    raise UsageError(f"{result.path} holds no array to count voxels in", "Save one: output: {save: [labels]}")


def _box(wanted: _Wanted, volume: Volume) -> Box | None:
    return None if wanted.region is None else parse_region(wanted.region, volume.scale, volume.shape)


def _box_um(wanted: _Wanted, result: Result) -> NDArray[np.float64] | None:
    """Lowest and highest place in a region, (2, 3): the outer faces of its voxels."""
    if wanted.region is None:
        return None
    volume = _grid(result)
    box = parse_region(wanted.region, volume.scale, volume.shape)
    voxel, origin = np.array(volume.scale.voxel_um), np.array(volume.scale.translation_um)
    bounds: NDArray[np.float64] = (np.array([box.start, box.stop]) - 0.5) * voxel + origin
    return bounds


def _objects(wanted: _Wanted, result: Result) -> NDArray[np.uint64] | None:
    """Ids that are wanted by id and by place; None for all."""
    chosen = None if wanted.objects is None else np.array(sorted(wanted.objects), np.uint64)
    if chosen is not None and "objects" in table_names(result.path / "tables"):
        absent = np.setdiff1d(chosen, result.objects["object_id"].to_numpy(np.uint64))
        listed = ", ".join(map(str, absent[:8].tolist()))
        if listed:
            raise UsageError(f"{result.path} has no object {listed}", "See tables/objects for their ids")
    bounds = _box_um(wanted, result)
    if bounds is None:
        return chosen
    table = result.objects
    places = table[["centroid_z_um", "centroid_y_um", "centroid_x_um"]].to_numpy(float)
    inside = ((places >= bounds[0]) & (places < bounds[1])).all(axis=1)
    found = table["object_id"].to_numpy(np.uint64)[inside]
    return found if chosen is None else np.intersect1d(found, chosen)


def _csv(result: Result, wanted: _Wanted) -> Exported:
    for name in table_names(result.path / "tables"):
        _free(wanted, f"{name}.csv")
    return Exported(tuple(export_csv(result.path / "tables", wanted.folder, objects=_objects(wanted, result))))


def _xlsx(result: Result, wanted: _Wanted) -> Exported:
    target = _free(wanted, "tables.xlsx")
    counts = export_xlsx(result.path / "tables", target, objects=_objects(wanted, result))
    return Exported((target,), (", ".join(f"{name}: {count} rows" for name, count in counts.items()),))


def _swc(result: Result, wanted: _Wanted) -> Exported:
    if not (result.path / "tables" / "nodes.parquet").is_file():
        raise InputNotFoundError(f"{result.path} holds no skeleton", "Add the stage skeleton to the pipeline")
    folder = _free_folder(wanted, "swc")
    chosen = None if wanted.objects is None else np.array(sorted(wanted.objects), np.uint64)
    files = export_swc(result, folder, objects=chosen, box_um=_box_um(wanted, result))
    if not files and (chosen is not None or wanted.region is not None):
        raise UsageError(f"no skeleton of {result.path} is among what is wanted", "Choose other objects or regions")
    return Exported(tuple(files), () if files else ("no object, so no skeleton",))


def _free_folder(wanted: _Wanted, name: str) -> Path:
    """A folder of many files: without those of an earlier export, which may have been of other objects."""
    folder = wanted.folder / name
    old = [path for path in folder.glob("*") if path.is_file()]
    if old and not wanted.overwrite:
        raise UsageError(f"{folder} holds files already", "Choose another folder, or add --overwrite")
    for path in old:
        path.unlink()
    return folder


def _mesh(result: Result, wanted: _Wanted) -> Exported:
    if result.labels is None:
        raise UsageError(f"{result.path} holds no labels", "Save them: output: {save: [labels]}")
    return _meshes(result.labels.volume, wanted)


def _meshes(labels: Volume, wanted: _Wanted) -> Exported:
    box = _box(wanted, labels)
    folder = _free_folder(wanted, "meshes")
    facts = export_meshes(
        labels,
        folder,
        region=box,
        objects=wanted.objects,
        format=wanted.mesh_format,
        surface=wanted.mesh_surface,
        on_block=wanted.on_step,
    )
    ending = "mesh" if wanted.mesh_format == "precomputed" else wanted.mesh_format
    files = [folder / f"{mesh.object_id}.{ending}" for mesh in facts]
    table = folder / "meshes.csv"
    _write_facts(table, facts)
    return Exported(
        (*files, table),
        (f"{len(facts)} mesh{'' if len(facts) == 1 else 'es'}, {sum(mesh.triangles for mesh in facts)} triangles",),
    )


def _write_facts(path: Path, facts: Sequence[MeshFacts]) -> None:
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["object_id", "vertices", "triangles", "volume_um3"])
        writer.writerows([m.object_id, m.vertices, m.triangles, repr(m.volume_um3)] for m in facts)


def _tiff(result: Result, wanted: _Wanted) -> Exported:
    saved = {name: getattr(result, name) for name in ("image", "probability", *_LABELS)}
    arrays = {name: found.volume for name, found in saved.items() if found is not None}
    if not arrays:
        raise UsageError(f"{result.path} holds no array", "Save one: output: {save: [image, labels]}")
    files = []
    for name, volume in arrays.items():
        layer = Layer(volume, channel_shown(volume), _name(name, volume), is_labels=name in _LABELS)
        files.append((_free(wanted, f"{_FILES.get(name, name)}.tif"), [layer]))
    if wanted.channels:
        files.append((_free(wanted, "channels.tif"), _beside(result, arrays, wanted)))
    return _written_tiffs(files, _grid(result), wanted)


def _name(array: str, volume: Volume) -> str:
    return (volume.channel or array) if array == "image" else _FILES.get(array, array)


def _written_tiffs(files: Sequence[tuple[Path, list[Layer]]], grid: Volume, wanted: _Wanted) -> Exported:
    notes = []
    region = _box(wanted, grid) or grid.box
    for target, layers in files:
        if export_tiff(target, layers, grid.scale, region, on_plane=wanted.on_step) == "ome":
            notes.append(f"{target.name} is an OME-TIFF: its voxels or its size are beyond ImageJ's own format")
    return Exported(tuple(target for target, _ in files), tuple(notes))


def _beside(result: Result, arrays: dict[str, Volume], wanted: _Wanted) -> list[Layer]:
    """The channels of the input that are wanted, the processed one as the result has it, and the labels."""
    stored = json.loads((run_folder(result.path) / "plan.json").read_bytes())
    options = stored["pipeline"]["input"]
    folder = _input_image(stored, wanted.source)
    facts = image_facts(folder)
    names = [name or f"channel_{number}" for number, name in enumerate(facts.channels)]
    processed = open_volume(folder, channel=options["channel"], time=options["time"]) if len(names) > 1 else None
    layers = []
    for number in _chosen(names, wanted.channels or ()):
        volume = open_volume(folder, channel=number, time=options["time"])
        is_processed = processed is None or processed.at == volume.at
        if is_processed and "image" in arrays:
            layers.append(_layer(arrays["image"], names[number]))
        else:
            layers.append(_layer(_on_scale(volume, float(options.get("expansion") or 1.0)), names[number]))
    for name in ("labels", "mask"):
        if name in arrays:
            return [*layers, Layer(arrays[name], None, _FILES.get(name, name), is_labels=True)]
    return layers


def _input_image(stored: Any, source: str | Path | None) -> Place:
    """Folder of the image that a run read."""
    if source is not None:
        return place_of(source)
    array = place_of(str(stored["plan"]["input"]["path"]))
    found = next((parent for parent in array.parents if zarr_kind(parent) == "group"), None)
    if found is None:
        raise InputNotFoundError(f"the input of the run, {array}, is not there any more", "Name it with --input IN")
    return found


def _chosen(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    if list(wanted) == ["all"]:
        return list(range(len(names)))
    found = []
    for word in wanted:
        if names.count(word) == 1:
            found.append(names.index(word))
        elif word.isdecimal() and int(word) < len(names):
            found.append(int(word))
        else:
            raise UsageError(
                f"the input has no one channel {word!r}", f"It holds {', '.join(names)}; all is all of them"
            )
    return found


def _on_scale(volume: Volume, expansion: float) -> Volume:
    scale: Scale = volume.scale if expansion == 1.0 else volume.scale.shrunk(expansion)
    return replace(volume, scale=scale)
