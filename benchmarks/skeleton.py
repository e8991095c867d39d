"""Distances, thinning and graph of one mask: chunkflow's kernels beside scipy, scikit-image, kimimaro and skan.

The thinning of chunkflow goes by Euclidean distance and needs the distance map, so its figure includes it;
scikit-image's `skeletonize` (Lee, Kashyap & Chu 1994) needs none. kimimaro (TEASAR) gives trees, without any loop, and
its figure includes its own distance map. Sparse masks (thin tubes; the network of `networks.py`, radius 3 to 8 voxels)
and a dense one (sponge) are measured. The graphs are made from one skeleton, ours; the peer is skan. The remarks count
loops: the mask's own number follows from its Euler characteristic.

Then whole runs, from a stored mask to a stored skeleton, in blocks on four workers: threads, and processes of a local
cluster that stands already (`--sides N ...`: other sizes than 512). The peer reads the same store, calls `skeletonize`
once and writes the same shards; ours also labels the components, fills cavities, makes the graph and its tables, and
proves every object's loops.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import networks
import numpy as np
from common import Options, PassClock, Report, Row, options, peer, spread, take_turns
from distributed import Client
from labels import WORKERS, local_cluster, write_mask
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import euler_number
from skimage.morphology import skeletonize

import chunkflow as cf
from chunkflow.geometry.scale import Scale
from chunkflow.kernels import branches, distance, graph, pruning, thinning
from chunkflow.storage.layout import ArrayLayout
from chunkflow.storage.volume import create_array, open_array
from chunkflow.synth import phantoms

SIDE, QUICK_SIDE = 256, 128
LARGE_SIDE, BLOCK = 512, 128
THINNING_GOAL = 4.0  # skeletonize's time over ours
KIMIMARO_GOAL = 50.0
RUN_GOAL = 2.0
TEASAR = {"scale": 1.5, "const": 0.3}  # its defaults, in um: what lies within scale * radius + const of a path is done
VOXEL_UM = (0.1, 0.1, 0.1)
WEIGHTS = (1, 1, 1)
CLOSED = np.zeros((3, 2), bool)  # the array is the whole volume


def main() -> None:
    """Measure and report."""
    given, sides = _options()
    packages = ["numba", "scipy", "scikit-image", "kimimaro", "skan"]
    report = Report("skeleton", "Skeleton and graph beside scipy, scikit-image, kimimaro and skan", given, packages)
    skan, kimimaro = peer("skan", report), peer("kimimaro", report)
    shape = ((QUICK_SIDE if given.quick else SIDE),) * 3
    _warm_up(sponge((32,) * 3), skan, kimimaro)
    tubes = phantoms.mitochondria(shape, VOXEL_UM, seed=1).labels > 0
    compare(report, "tubes", tubes, skan)
    compare_teasar(report, "tubes", tubes, kimimaro)
    web = networks.network(
        shape[0], points=networks.QUICK_POINTS if given.quick else networks.POINTS, seed=networks.SEED
    )
    compare(report, "network", web, skan)
    compare_teasar(report, "network", web, kimimaro)
    compare(report, "sponge", sponge(shape), skan)
    report.notes.append("our graph also has radii along each branch, spurs pruned and curves smoothed; skan's has not")
    for side in sides:
        compare_runs(report, "tubes", phantoms.mitochondria((side,) * 3, VOXEL_UM, seed=1).labels > 0)
        compare_runs(report, "sponge", sponge((side,) * 3))
    report.finish()


def _options() -> tuple[Options, tuple[int, ...]]:
    """The common options, and the sides of the volumes of whole runs (none where it is to be quick)."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--sides", type=int, nargs="*", help="of whole runs in blocks")
    own, rest = parser.parse_known_args()
    given = options(str(__doc__) + "\n--sides N ...: sides of the volumes of whole runs in blocks (512)", rest)
    return given, tuple(own.sides if own.sides is not None else () if given.quick else (LARGE_SIDE,))


def compare(report: Report, what: str, mask: NDArray[np.bool_], skan: Any) -> None:
    """Add the rows and remarks of one mask."""
    goal = None if report.options.quick else THINNING_GOAL
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
        ("exact distances", "distance", "scipy", "scipy distance_transform_edt", None),
        ("distances and thinning", "thin", "skeletonize", "scikit-image skeletonize (Lee 1994)", goal),
        ("graph and tables", "graph", "skan", "skan Skeleton and summarize", None),
    ]
    for step, ours, theirs, name, least in pairs:
        value = times[theirs].median if theirs in times else None
        row = f"{what} {len(mask)}^3, {step} [s]"
        report.rows.append(Row(name=row, ours=times[ours].median, peer=name, peer_value=value, goal=least))
    lee = skeletonize(mask, method="lee") > 0
    of_skan = f", skan's graph of ours {_skan_loops(skan, skeleton)}" if skan is not None else ""
    report.notes += [
        f"{what}: {spread(times)}",
        f"{what}: {mask.sum()} voxels ({mask.mean():.1%}) thin to {skeleton.sum()} (ours), {lee.sum()} (scikit-image)",
        f"{what}: loops of the mask {loops(mask)}, our skeleton {loops(skeleton)}, our graph "
        f"{_graph_loops(skeleton, squared)}, scikit-image's skeleton {loops(lee)}{of_skan}",
    ]


def compare_teasar(report: Report, what: str, mask: NDArray[np.bool_], kimimaro: Any) -> None:
    """Thinning beside kimimaro's whole task, which gives centrelines and radii."""
    contenders: dict[str, Callable[[], Any]] = {"thin": lambda: thin(mask)}
    if kimimaro is not None:
        contenders["kimimaro"] = lambda: teasar(kimimaro, mask)
    times = take_turns(contenders, report.options.rounds)
    report.rows.append(
        Row(
            name=f"{what} {len(mask)}^3, distances and thinning [s]",
            ours=times["thin"].median,
            peer="kimimaro (TEASAR, trees)",
            peer_value=times["kimimaro"].median if "kimimaro" in times else None,
            goal=None if report.options.quick else KIMIMARO_GOAL,
        )
    )
    report.notes.append(f"{what}: {spread(times)}; kimimaro is given the components as labels, and {TEASAR}")


def teasar(kimimaro: Any, mask: NDArray[np.bool_]) -> Any:
    """kimimaro's skeletons of the components of a mask, on one thread."""
    labels = ndimage.label(mask, np.ones((3, 3, 3)))[0].astype(np.uint32)
    size = {"anisotropy": VOXEL_UM, "dust_threshold": 0}
    return kimimaro.skeletonize(labels, teasar_params=TEASAR, progress=False, parallel=1, **size)


def compare_runs(report: Report, what: str, mask: NDArray[np.bool_]) -> None:
    """From a stored mask to a stored skeleton, in blocks on four workers, beside one call."""
    with tempfile.TemporaryDirectory() as name, local_cluster() as client:
        folder = Path(name)
        small = write_mask(folder / "warm.ome.zarr", mask[:64, :64, :128])
        for using in (None, client):
            our_run(small, folder / "warm", 32, using)
        source = write_mask(folder / "mask.ome.zarr", mask)
        contenders: dict[str, Callable[[], Any]] = {
            "threads": partial(our_run, source, folder / "threads", BLOCK, None),
            "processes": partial(our_run, source, folder / "processes", BLOCK, client),
            "skeletonize": lambda: one_shot(source, folder / "skeletonize"),
        }
        times = take_turns(contenders, report.options.rounds)
        for kind in ("threads", "processes"):
            row = f"{what} {len(mask)}^3 in blocks of {BLOCK}^3, {WORKERS} {kind} [s]"
            theirs = "read, skeletonize, write; whole volume, one call"
            value = times["skeletonize"].median
            report.rows.append(Row(name=row, ours=times[kind].median, peer=theirs, peer_value=value, goal=RUN_GOAL))
        clock = PassClock()
        our_run(source, folder / "clocked", BLOCK, None, clock)
        passes = clock.text()
        result = cf.open_result(folder / "processes")
        certified = "every" if result.pass_values("graph")["open_count"].sum() == 0 else "not every"
        count = len(result.branches)
    report.notes += [
        f"{what} {len(mask)}^3, from file to file: {spread(times)}",
        f"{what} {len(mask)}^3: {count} branches; {certified} voxel decided; seconds by pass, {WORKERS} threads: "
        f"{passes}",
    ]


def our_run(source: Path, out: Path, block: int, client: Client | None, on_event: Any = None) -> None:
    """The pipeline `label`, `skeleton`; workers are threads, or those of a client."""
    shutil.rmtree(out, ignore_errors=True)
    saved = cf.OutputOptions(save=("skeleton",), pyramid="none")
    pipeline = cf.Pipeline([cf.Label(), cf.Skeleton()], input=cf.InputOptions(kind="mask"), output=saved)
    plan = pipeline.plan(str(source), out, block=(block,) * 3)
    on = None if client is not None else "threads"
    plan.run(client=client, on=on, workers=WORKERS, device="cpu", on_event=on_event)


def one_shot(source: Path, out: Path) -> None:
    """The whole volume at once, through the same storage, in the same shards."""
    shutil.rmtree(out, ignore_errors=True)
    scale = Scale(VOXEL_UM)
    volume = open_array(source / "0", scale)
    skeleton = skeletonize(volume.read(volume.box) > 0, method="lee")
    layout = ArrayLayout(volume.shape, "uint16", (64,) * 3, (BLOCK,) * 3)
    create_array(out, layout, scale).write(volume.box, skeleton.astype(np.uint16))


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


def _warm_up(mask: NDArray[np.bool_], skan: Any, kimimaro: Any) -> None:
    """Compile and fill caches."""
    tables(*thin(mask))
    if kimimaro is not None:
        teasar(kimimaro, mask)
    if skan is not None:
        _skan_tables(skan, thin(mask)[0])


if __name__ == "__main__":
    main()
