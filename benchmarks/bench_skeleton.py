"""Distances, thinning and graph of one mask: chunkflow's kernels beside scipy, scikit-image and skan.

The thinning of chunkflow goes by Euclidean distance and needs the distance map, so its figure includes it; scikit-image's
`skeletonize` (Lee, Kashyap & Chu 1994) needs none. The graphs are made from the same skeleton, ours; the peer is
skan. The remarks count loops: the mask's own number follows from its Euler characteristic.
"""

from __future__ import annotations

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
    side = QUICK_SIDE if given.quick else SIDE
    mask = phantoms.mitochondria((side,) * 3, VOXEL_UM, seed=1).labels > 0
    skan = peer("skan", report)
    _warm_up(mask[:32, :32, :32], skan)
    skeleton, squared = thin(mask)
    contenders = {
        "distance": lambda: measure(mask),
        "scipy": lambda: ndimage.distance_transform_edt(mask),
        "thin": lambda: thin(mask),
        "skeletonize": lambda: skeletonize(mask, method="lee"),
        "graph": lambda: tables(skeleton, squared),
    }
    if skan is not None:
        contenders["skan"] = lambda: _skan_tables(skan, skeleton)
    times = take_turns(contenders, given.rounds)
    pairs = [
        ("exact distances", "distance", "scipy", "scipy distance_transform_edt"),
        ("distances and thinning", "thin", "skeletonize", "scikit-image skeletonize (Lee 1994)"),
        ("graph, nodes, branches with lengths and radii", "graph", "skan", "skan Skeleton and summarize"),
    ]
    for what, ours, theirs, name in pairs:
        value = times[theirs].median if theirs in times else None
        report.rows.append(Row(name=f"{what} {side}^3 [s]", ours=times[ours].median, peer=name, peer_value=value))
    lee = skeletonize(mask, method="lee")
    report.notes += [
        spread(times),
        f"{mask.sum()} voxels of foreground ({mask.mean():.1%}), {skeleton.sum()} of them on our skeleton, "
        f"{np.count_nonzero(lee)} on scikit-image's",
        f"loops: mask {loops(mask)}, our skeleton {loops(skeleton)}, our graph {_graph_loops(skeleton, squared)}, "
        f"scikit-image's skeleton {loops(lee > 0)}" + (f", skan's graph of ours {_skan_loops(skan, skeleton)}" if skan else ""),
        "our graph also holds radii along each branch, prunes spurs and smooths the curves; skan's has none of these",
    ]
    report.finish()


def measure(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(Z, Y, X) squared distances in voxels."""
    return distance.squared_distance(mask, weights=WEIGHTS, open_borders=CLOSED)


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
