"""Distances, thinning and graph of one mask: chunkflow's kernels beside scipy, scikit-image and skan.

The thinning of chunkflow goes by Euclidean distance and needs the distance map, so its figure includes it;
scikit-image's `skeletonize` (Lee, Kashyap & Chu 1994) needs none. A sparse mask (tubes) and a dense one (sponge) are
measured. The graphs are made from one skeleton, ours; the peer is skan. The remarks count loops: the mask's own number
follows from its Euler characteristic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from common import Report, Row, options, peer, spread, take_turns
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import euler_number
from skimage.morphology import skeletonize

from chunkflow.kernels import branches, distance, graph, pruning, thinning
from chunkflow.synth import phantoms

SIDE, QUICK_SIDE = 256, 128
VOXEL_UM = (0.1, 0.1, 0.1)
WEIGHTS = (1, 1, 1)
CLOSED = np.zeros((3, 2), bool)  # the array is the whole volume


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    packages = ["numba", "scipy", "scikit-image", "skan"]
    report = Report("skeleton", "Skeleton and graph beside scipy, scikit-image and skan", given, packages)
    skan = peer("skan", report)
    shape = ((QUICK_SIDE if given.quick else SIDE),) * 3
    _warm_up(sponge((32,) * 3), skan)
    compare(report, "tubes", phantoms.mitochondria(shape, VOXEL_UM, seed=1).labels > 0, skan)
    compare(report, "sponge", sponge(shape), skan)
    report.notes.append("our graph also has radii along each branch, spurs pruned and curves smoothed; skan's has not")
    report.finish()


def compare(report: Report, what: str, mask: NDArray[np.bool_], skan: Any) -> None:
    """Add the rows and remarks of one mask."""
    skeleton, squared = thin(mask)
    contenders: dict[str, Callable[[], Any]] = {
        "distance": lambda: measure(mask),
        "scipy": lambda: ndimage.distance_transform_edt(mask),
        "thin": lambda: thin(mask),
        "skeletonize": lambda: skeletonize(mask, method="lee"),
        "graph": lambda: tables(skeleton, squared),
    }
    if skan is not None:
        contenders["skan"] = lambda: _skan_tables(skan, skeleton)
    times = take_turns(contenders, report.options.rounds)
    pairs = [
        ("exact distances", "distance", "scipy", "scipy distance_transform_edt"),
        ("distances and thinning", "thin", "skeletonize", "scikit-image skeletonize (Lee 1994)"),
        ("graph and tables", "graph", "skan", "skan Skeleton and summarize"),
    ]
    for step, ours, theirs, name in pairs:
        value = times[theirs].median if theirs in times else None
        row = Row(name=f"{what} {len(mask)}^3, {step} [s]", ours=times[ours].median, peer=name, peer_value=value)
        report.rows.append(row)
    lee = skeletonize(mask, method="lee") > 0
    of_skan = f", skan's graph of ours {_skan_loops(skan, skeleton)}" if skan is not None else ""
    report.notes += [
        f"{what}: {spread(times)}",
        f"{what}: {mask.sum()} voxels ({mask.mean():.1%}) thin to {skeleton.sum()} (ours), {lee.sum()} (scikit-image)",
        f"{what}: loops of the mask {loops(mask)}, our skeleton {loops(skeleton)}, our graph "
        f"{_graph_loops(skeleton, squared)}, scikit-image's skeleton {loops(lee)}{of_skan}",
    ]


def sponge(shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """A quarter of the volume in one thick network, its cavities filled: smooth noise above its third quartile."""
    noise = np.random.default_rng(1).standard_normal(shape, np.float32)
    smooth = ndimage.gaussian_filter(noise, 3.0)
    return np.asarray(ndimage.binary_fill_holes(smooth > np.quantile(smooth, 0.75)))


def measure(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(Z, Y, X) squared distances in voxels."""
    return distance.squared_distance(mask, weights=WEIGHTS)


def thin(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Skeleton and squared distances."""
    squared = measure(mask)
    thinned = thinning.thin(mask, squared, origin=(0, 0, 0), open_borders=CLOSED, weights=WEIGHTS)
    return thinned.skeleton, squared


def assembled(skeleton: NDArray[np.bool_], squared: NDArray[np.int32]) -> graph.SkeletonGraph:
    """The exact graph of a skeleton, one object, spurs pruned."""
    index = np.flatnonzero(skeleton)
    label = np.ones(len(index), np.uint64)
    whole = graph.assemble(index, label, squared.ravel()[index].astype(np.int64), shape=skeleton.shape)
    return pruning.prune(whole, prune_radii=1.0, spacing_um=VOXEL_UM, unit_um=VOXEL_UM[0])


def tables(skeleton: NDArray[np.bool_], squared: NDArray[np.int32]) -> tuple[Any, Any]:
    """Columns of nodes and branches."""
    found = assembled(skeleton, squared)
    nodes = branches.node_columns(found, spacing_um=VOXEL_UM, unit_um=VOXEL_UM[0])
    return nodes, branches.branch_columns(found, spacing_um=VOXEL_UM, unit_um=VOXEL_UM[0])


def loops(mask: NDArray[np.bool_]) -> int:
    """b1 of a mask without cavities: its components less its Euler characteristic (26-connected)."""
    return int(ndimage.label(mask, np.ones((3, 3, 3)))[1] - euler_number(mask, connectivity=3))


def _graph_loops(skeleton: NDArray[np.bool_], squared: NDArray[np.int32]) -> int:
    return int(graph.loops_per_object(assembled(skeleton, squared))[2].sum())


def _skan_tables(skan: Any, skeleton: NDArray[np.bool_]) -> Any:
    return skan.summarize(skan.Skeleton(skeleton, spacing=VOXEL_UM), separator="_")


def _skan_loops(skan: Any, skeleton: NDArray[np.bool_]) -> int:
    """Edges - nodes + components of skan's graph; its isolated voxels have no branch and no loop."""
    rows = _skan_tables(skan, skeleton)
    nodes = np.unique(rows[["node_id_src", "node_id_dst"]].to_numpy())
    return int(len(rows) - len(nodes) + rows["skeleton_id"].nunique())


def _warm_up(mask: NDArray[np.bool_], skan: Any) -> None:
    """Compile and fill caches."""
    tables(*thin(mask))
    if skan is not None:
        _skan_tables(skan, thin(mask)[0])


if __name__ == "__main__":
    main()
