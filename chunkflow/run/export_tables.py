"""The tables of a result as CSV or Excel, for people: see `storage.spreadsheets`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import InputNotFoundError
from chunkflow.storage.spreadsheets import columns_of, table_names, write_csv, write_xlsx
from chunkflow.storage.stores import Place

FIRST = ("objects", "networks", "branches", "nodes", "contacts", "regions", "graph_metrics")
"""Tables in the order that people ask for them; any others follow."""

_MEANINGS = {
    "object_id": "value of the object's voxels in the labels",
    "volume_vox": "voxels",
    "volume_um3": "volume of these voxels",
    "surface_um2": "surface by the Crofton formula",
    "sphericity": "1 for a ball, less for everything else",
    "axis_major_um": "longest axis of the ellipsoid with the same second moments",
    "axis_middle_um": "second axis of that ellipsoid",
    "axis_minor_um": "shortest axis of that ellipsoid",
    "extent_major_um": "side along the major axis of the box around its voxels",
    "extent_middle_um": "side of that box along the middle axis",
    "extent_minor_um": "side of that box along the minor axis",
    "elongation": "major / middle axis",
    "flatness": "middle / minor axis",
    "inscribed_radius_um": "largest distance to what is not the object",
    "form": "tubes, sheet or blob: how much a skeleton tells of it",
    "intensity_mean": "mean grey value",
    "intensity_sd": "standard deviation of the grey values",
    "intensity_min": "smallest grey value",
    "intensity_max": "largest grey value",
    "intensity_of": "array that the grey values are of",
    "b0": "connected components",
    "b1": "loops",
    "b2": "closed cavities",
    "b1_filled": "loops once cavities of background are filled",
    "b1_graph": "loops of the skeleton graph",
    "certified": "whether the skeleton is proven to be that of the whole volume",
    "touches_border": "whether the volume may cut the object",
    "region_id": "parent region that holds most of it, 0 for outside",
    "region_fraction": "share of it there",
    "branch_id": "number of the branch",
    "node_id": "number of the node",
    "node_a": "node where the branch begins",
    "node_b": "node where it ends",
    "length_um": "length along the smoothed skeleton",
    "length_to_tips_um": "length with the radius at each free end added",
    "length_voxels_um": "length through the voxel centres",
    "chord_um": "straight distance between the ends",
    "tortuosity": "length / chord",
    "radius_um": "distance to the surface",
    "radius_mean_um": "mean distance to the surface along the skeleton",
    "tube_surface_um2": "lateral surface of a chain of truncated cones along the skeleton",
    "tube_volume_um3": "volume of that chain of cones",
    "kind": "what it is",
    "degree": "branches that meet in the node",
    "loops": "independent loops",
    "ends": "nodes of one branch",
    "junctions": "nodes of three branches or more",
    "phi": "share of the length in the longest component",
    "connectivity_score": "MitoGraph's: high where few long pieces branch much; of lengths in um",
    "links": "links of the network as a simple graph",
    "self_loops": "branches from a node to itself, left out of the simple graph",
    "parallel_links": "further branches between two nodes, left out of the simple graph",
    "link_density": "links over pairs of nodes",
    "degree_counts": "nodes of degree 0, 1, 2 and so on",
    "degree_entropy": "entropy of the distribution of degrees, in bits",
    "assortativity": "correlation of the degrees at both ends of links",
    "transitivity": "3 triangles over paths of two links",
    "clustering": "mean share of a node's neighbours that are linked",
    "diameter": "largest distance between connected nodes, in steps",
    "path_length": "mean distance between connected nodes, in steps",
    "efficiency": "mean of 1 / distance over all pairs of nodes",
    "modularity": "of the communities that Louvain finds",
    "communities": "communities that Louvain finds",
    "louvain": "program that looked for communities",
    "sigma": "small-world sigma: above 1 in a small world",
    "lattice_clustering": "largest clustering of lattices with these degrees",
    "omega": "small-world omega: -1 lattice, 0 small world, 1 random",
    "is_exact": "whether distances start at every node",
    "faces": "voxel faces between the two objects",
    "area_um2": "area of these faces",
}
_AXES = {"z": "along z", "y": "along y", "x": "along x"}


def export_csv(tables: Place, folder: Path, *, objects: NDArray[np.uint64] | None = None) -> list[Path]:
    """Write every table as NAME.csv, of all objects or of some; the files.

    Raises
    ------
    InputNotFoundError : there are no tables.
    """
    written = []
    for table in _ordered(tables):
        path = folder / f"{table}.csv"
        write_csv(path, tables, table, objects)
        written.append(path)
    return written


def export_xlsx(tables: Place, path: Path, *, objects: NDArray[np.uint64] | None = None) -> dict[str, int]:
    """Write every table as a sheet of one Excel file, after a sheet that says what the columns are; rows by table.

    Raises
    ------
    InputNotFoundError : there are no tables.
    """
    names = _ordered(tables)
    columns = {column for table in names for column in columns_of(tables, table)}
    return write_xlsx(path, tables, names, explained={c: _meaning(c) for c in columns}, objects=objects)


def _ordered(tables: Place) -> list[str]:
    found = table_names(tables)
    if not found:
        raise InputNotFoundError(f"{tables} holds no tables", "Add measure or skeleton to the pipeline")
    return [name for name in FIRST if name in found] + [name for name in found if name not in FIRST]


def _meaning(column: str, known: Mapping[str, str] = _MEANINGS) -> str:
    """A few words; columns that come once for each axis are put together."""
    if column in known:
        return known[column]
    words = column.split("_")
    axis = next((_AXES[word] for word in words if word in _AXES), "")
    if column.startswith("bbox_"):
        if words[-1] == "um":
            return f"{words[2]} of the bounding box {axis}, its faces"
        side = "first voxel" if column.endswith("min") else "the voxel behind the last"
        return f"{side} of the bounding box {axis}"
    if column.startswith("centroid_"):
        return f"mean of the voxel centres {axis}"
    if words[0] == "axis":
        return f"direction of the {words[1]} axis {axis}"
    if column in ("z_um", "y_um", "x_um"):
        return f"position {axis}"
    if words[-1] in ("sd", "se") and words[0] not in ("intensity", "radius"):
        of = "standard deviation" if words[-1] == "sd" else "standard error"
        return f"{of} of {'_'.join(words[:-1])}"
    if words[0] in ("null", "rewired"):
        kept = "the degrees" if words[0] == "rewired" else "nodes and links alone"
        return f"{' '.join(words[1:])} of random graphs that keep {kept}"
    if words[0] in ("pearson", "manders"):
        return "colocalization with that channel"
    if words[0] == "intensity":
        return "grey values of that channel"
    return ""
