"""A result as layers for napari: arrays with their pyramids, and tables as features of what they describe.

    image       grey, contrast from the metadata              objects      labels; row of the table objects by id
    skeleton    a line for each step of a branch's curve,     nodes        points, coloured by kind; row of the
                with the branch's row                                      table nodes

All of them are in voxels of the finest level with the voxel size as scale, so that planes are the same planes in every
layer, and positions are shown in um. Arrays are read as they are looked at; tables and curves are held in memory, about
150 bytes a point of a curve.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chunkflow.errors import IncompleteError, InputNotFoundError
from chunkflow.run.dask import as_dask_array
from chunkflow.run.result import Result, open_result
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.stores import ObjectPath, Place
from chunkflow.storage.tables import read_table
from chunkflow.view.scene import Layer, Scene, levels_of, open_scene

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]
"""What napari calls so: data, keywords of the layer, kind of layer."""

UM = "micrometer"
NODE_COLORS = {"end": "#ffd933", "junction": "#ff4033", "isolated": "#999999", "cycle": "#4dccff"}
LEAST_POINT = 3.0
"""Diameter of a node's disk in voxels, at least."""
LINE_WIDTH = 0.8
LABELS_OPACITY = 0.5


def result_layers(location: str | Place) -> list[LayerData]:
    """Everything that is saved of a result, or of an OME-Zarr image, as layers for napari.

    Raises
    ------
    InputError : there is nothing to show.
    """
    scene = open_scene(location)
    folder = scene.place
    result = _result(folder)
    layers = [_array(folder, scene, layer) for layer in scene.layers]
    if not (folder / "tables" / "nodes.parquet").is_file():
        return layers
    lines = [] if result is None else [_skeleton(scene, result)]
    return [*layers, *lines, _nodes(scene, read_table(folder / "tables", "nodes"))]


def _result(folder: Place) -> Result | None:
    """The finished run of a folder, which holds the curves; None of an image, and where only its results are.

    That is a copy without the run's own files, a web server, which lists nothing, and a local result that was copied
    into a bucket, where journals look otherwise.
    """
    if isinstance(folder, ObjectPath) and folder.is_read_only:
        return None
    try:
        return open_result(folder)
    except InputNotFoundError:
        return None
    except IncompleteError:
        if isinstance(folder, ObjectPath):
            return None
        raise


def _placed(scene: Scene) -> dict[str, Any]:
    scale = scene.scale
    return {
        "scale": scale.voxel_um,
        "translate": scale.translation_um,
        "units": (UM,) * 3,
        "axis_labels": ("z", "y", "x"),
    }


def _array(folder: Place, scene: Scene, layer: Layer) -> LayerData:
    path, count = folder / layer.path, levels_of(folder, layer.path)
    levels = [as_dask_array(open_volume(path, level=level).array) for level in range(count)]
    several = len(levels) > 1  # napari takes a list of one level for a stack of planes
    data = levels if several else levels[0]
    keywords: dict[str, Any] = {"name": layer.name, "visible": layer.is_visible, "multiscale": several}
    keywords |= _placed(scene)
    if layer.is_labels:
        if layer.name == "objects":
            keywords["features"] = object_features(folder)
        return data, {**keywords, "opacity": LABELS_OPACITY}, "labels"
    if layer.window is not None:
        keywords["contrast_limits"] = layer.window
    if layer.color != "FFFFFF":
        keywords["colormap"] = f"#{layer.color}"
    return data, {**keywords, "blending": "additive"}, "image"


def object_features(folder: Place) -> pd.DataFrame:
    """The table of objects as napari takes it: `index` names the label of a row, and the first row is background's."""
    background = pd.DataFrame({"index": [0]})
    if not (folder / "tables" / "objects.parquet").is_file():
        return background
    objects = read_table(folder / "tables", "objects")
    return pd.concat([background, objects.assign(index=objects["object_id"])], ignore_index=True)


def _in_voxels(scene: Scene, points_um: NDArray[np.float64]) -> NDArray[np.float64]:
    voxels: NDArray[np.float64] = (points_um - scene.scale.translation_um) / scene.scale.voxel_um
    return voxels


def _skeleton(scene: Scene, result: Result) -> LayerData:
    """Every step of every curve as an arrow without a head: what napari draws fastest of many lines."""
    starts, steps, branches = [], [], []
    for part in result.graph_parts:
        points, offsets = _in_voxels(scene, part.curves["points_um"]), part.curves["offsets"]
        first = np.ones(len(points), np.bool_)
        first[offsets[1:] - 1] = False
        index = np.flatnonzero(first)
        starts.append(points[index])
        steps.append(points[index + 1] - points[index])
        branches.append(np.repeat(part.branches["branch_id"], np.diff(offsets) - 1))
    where = np.concatenate(starts) if starts else np.zeros((0, 3))
    along = np.concatenate(steps) if steps else np.zeros((0, 3))
    rows = result.branches.set_index("branch_id", drop=False)
    features = rows.loc[np.concatenate(branches) if branches else []].reset_index(drop=True)
    keywords = {
        "name": "skeleton lines",
        "features": features,
        "edge_color": object_colors(features["object_id"].to_numpy()) if len(where) else "#ffffff",
        "edge_width": LINE_WIDTH,
        "vector_style": "line",
        "opacity": 1.0,
        "projection_mode": "all",
        **_placed(scene),
    }
    return np.stack([where, along], axis=1), keywords, "vectors"


def object_colors(ids: NDArray[Any]) -> NDArray[np.float64]:
    """(N, 4) colours of object ids, those that napari gives labels when nobody changes them."""
    from napari.utils.colormaps import label_colormap

    colors: NDArray[np.float64] = np.asarray(label_colormap(49, seed=0.5).map(ids), np.float64).reshape(-1, 4)
    return colors


def _nodes(scene: Scene, nodes: pd.DataFrame) -> LayerData:
    diameter = 2 * nodes["radius_um"].to_numpy(np.float64) / min(scene.scale.voxel_um)
    keywords = {
        "name": "nodes",
        "features": nodes,
        "face_color": [NODE_COLORS.get(str(kind), "#ffffff") for kind in nodes["kind"]] or "#ffffff",
        "size": np.maximum(np.nan_to_num(diameter), LEAST_POINT) if len(nodes) else LEAST_POINT,
        "border_width": 0.1,
        "border_color": "black",
        "projection_mode": "all",
        **_placed(scene),
    }
    return _in_voxels(scene, nodes[["z_um", "y_um", "x_um"]].to_numpy(np.float64)), keywords, "points"
