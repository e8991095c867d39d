"""Measures per object and contacts between labels, beside scikit-image `regionprops_table` with the same columns.

In memory: the kernels that a block runs, merged over blocks of 64^3, columns included, against `regionprops_table` on
the whole volume. scikit-image has no additive surface; the peer of that column is `mesh_surface_area` of marching cubes
in an object's padded box, and it is timed in a row of its own. Volumes: balls that touch, and, where the folder of
shared data is there, a dense segmentation of neurites. Then the error of the surface, by radius and voxel.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import Options, Report, Row, Table, options, peak_mib, spread, take_turns
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes, mesh_surface_area, regionprops, regionprops_table

from chunkflow.kernels import measure, surface

BLOCK = 64
SIDE, QUICK_SIDE = 256, 96
VOXEL_UM = (0.2, 0.1, 0.1)
NEURITES = Path(__file__).parents[2] / "shared" / "data" / "em_segmentation_256x512x512.tif"
NEURITE_UM = (0.04, 0.016, 0.016)
PROPERTIES = (
    "label",
    "num_pixels",
    "area",
    "bbox",
    "centroid",
    "intensity_mean",
    "intensity_std",
    "intensity_min",
    "intensity_max",
    "inertia_tensor_eigvals",
)
Parts = list[tuple[Any, ...]]


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    report = Report("measure", "Measures per object beside scikit-image regionprops_table", given, ["scikit-image"])
    side = QUICK_SIDE if given.quick else SIDE
    compare(report, f"touching balls, {side}^3", touching_balls(side), VOXEL_UM, with_mesh=True)
    neurites = load_neurites(given)
    if neurites is None:
        report.notes.append("no segmentation of neurites: ../shared/data is not there, or this is a quick run")
    else:
        compare(report, "neurites, " + " x ".join(map(str, neurites.shape)), neurites, NEURITE_UM, with_mesh=False)
    report.tables += surface_errors(given)
    report.finish()


def touching_balls(side: int) -> NDArray[np.uint32]:
    """Balls of radius side / 20 around random centres; where they overlap, voxels go to the nearest centre."""
    rng = np.random.default_rng(1)
    centres = rng.uniform(0, side, (400, 3))
    at = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    distance, nearest = cKDTree(centres).query(at, distance_upper_bound=side / 20)
    return np.where(np.isfinite(distance), nearest + 1, 0).reshape((side,) * 3).astype(np.uint32)


def load_neurites(given: Options) -> NDArray[np.uint32] | None:
    """The dense segmentation, or None."""
    if given.quick or not NEURITES.is_file():
        return None
    import tifffile

    return np.asarray(tifffile.imread(NEURITES), np.uint32)


def compare(
    report: Report, name: str, labels: NDArray[np.uint32], voxel_um: tuple[float, float, float], *, with_mesh: bool
) -> None:
    """Times of the tables, and that they say the same; meshes of long thin objects in large boxes take for ever."""
    image = np.random.default_rng(2).integers(0, 4096, labels.shape).astype(np.uint16)
    corner = labels[:BLOCK, :BLOCK, :BLOCK], image[:BLOCK, :BLOCK, :BLOCK]
    our_objects(*corner, voxel_um)  # compilers
    our_contacts(corner[0], voxel_um)
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: our_objects(labels, image, voxel_um),
        "ours without surface": lambda: our_objects(labels, image, voxel_um, with_surface=False),
        "contacts": lambda: our_contacts(labels, voxel_um),
        "regionprops": lambda: their_objects(labels, image, voxel_um),
    }
    if with_mesh:
        contenders["marching cubes"] = lambda: mesh_areas(labels, voxel_um)
    taken = take_turns(contenders, report.options.rounds)
    times = {key: timing.median for key, timing in taken.items()}
    beside = "regionprops_table, marching cubes per object" if with_mesh else "regionprops_table without a surface"
    whole = times["regionprops"] + times.get("marching cubes", 0.0)
    rows: tuple[tuple[str, str, str | None, float | None, float | None], ...] = (
        ("same columns", "ours without surface", "regionprops_table", times["regionprops"], 3.0),
        ("and the surface", "ours", beside, whole, 3.0),
        ("contacts", "contacts", None, None, None),
    )
    for what, key, peer, value, goal in rows:
        report.rows.append(Row(name=f"{name}: {what} [s]", ours=times[key], peer=peer, peer_value=value, goal=goal))
    contacts = our_contacts(labels, voxel_um)
    peak = peak_mib(lambda: (our_objects(labels, image, voxel_um), our_contacts(labels, voxel_um)))
    report.notes += [
        f"{name}: {spread(taken)}",
        f"{name}: {len(np.unique(labels[labels > 0]))} objects, {len(contacts['faces'])} touching pairs, "
        f"{int(contacts['faces'].sum())} faces; peak of ours {peak:.0f} MiB beyond the volumes",
        f"{name}: {agreement(labels, image, voxel_um, with_mesh=with_mesh)}",
    ]


def blocks_of(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Cores of BLOCK^3 that cover a volume."""
    return [
        tuple(slice(a, min(a + BLOCK, n)) for a, n in zip(start, shape, strict=True))
        for start in product(*(range(0, n, BLOCK) for n in shape))
    ]


def with_border(labels: NDArray[Any], core: tuple[slice, ...]) -> NDArray[Any]:
    """A core and one voxel around it, zeros outside the volume."""
    inside = tuple(slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(core, labels.shape, strict=True))
    missing = [(int(s.start == 0), int(s.stop == n)) for s, n in zip(core, labels.shape, strict=True)]
    return np.pad(labels[inside], missing)


def our_objects(
    labels: NDArray[Any], image: NDArray[Any], voxel_um: tuple[float, float, float], *, with_surface: bool = True
) -> dict[str, NDArray[Any]]:
    """The table of objects, block by block."""
    cores = blocks_of(labels.shape)
    totals = measure.merge_sums(
        [measure.object_sums(labels[c], (c[0].start, c[1].start, c[2].start), image[c]) for c in cores]
    )
    columns = measure.object_columns(totals, labels.shape, voxel_um) | measure.axis_columns(totals, voxel_um)
    if with_surface:
        crossings = surface.merge_crossings([surface.block_crossings(with_border(labels, c)) for c in cores])
        columns["surface_um2"] = surface.surface_areas(crossings.crossings, voxel_um)
        columns["sphericity"] = surface.sphericity(columns["volume_um3"], columns["surface_um2"])
    return columns


def our_contacts(labels: NDArray[Any], voxel_um: tuple[float, float, float]) -> dict[str, NDArray[Any]]:
    """The table of contacts, block by block."""
    parts = [surface.block_contacts(with_border(labels, core)) for core in blocks_of(labels.shape)]
    return surface.contact_columns(surface.merge_contacts(parts), voxel_um)


def mesh_areas(labels: NDArray[Any], voxel_um: tuple[float, float, float]) -> NDArray[np.float64]:
    """Area of the marching-cubes mesh of every object."""
    areas = []
    for region in regionprops(labels):
        vertices, faces, _, _ = marching_cubes(np.pad(region.image, 1).astype(np.float32), 0.5, spacing=voxel_um)
        areas.append(mesh_surface_area(vertices, faces))
    return np.array(areas)


def their_objects(
    labels: NDArray[Any], image: NDArray[Any], voxel_um: tuple[float, float, float]
) -> dict[str, NDArray[Any]]:
    """The peer's table; eigenvalues of the inertia tensor are what its axes come from."""
    table: dict[str, NDArray[Any]] = regionprops_table(labels, image, properties=PROPERTIES, spacing=voxel_um)
    return table


def agreement(
    labels: NDArray[Any], image: NDArray[Any], voxel_um: tuple[float, float, float], *, with_mesh: bool
) -> str:
    """How far the two tables are apart."""
    ours = our_objects(labels, image, voxel_um)
    theirs = their_objects(labels, image, voxel_um)
    pairs = [("volume_um3", "area"), *((f"centroid_{a}_um", f"centroid-{k}") for k, a in enumerate("zyx"))]
    pairs += [("intensity_mean", "intensity_mean"), ("intensity_sd", "intensity_std")]
    off = max(float(np.max(np.abs(ours[a] - theirs[b]) / np.maximum(np.abs(theirs[b]), 1e-9))) for a, b in pairs)
    is_box = all(
        np.array_equal(ours[f"bbox_{a}_{end}"], theirs[f"bbox-{k + 3 * (end == 'max')}"])
        for k, a in enumerate("zyx")
        for end in ("min", "max")
    )
    text = f"boxes equal: {is_box}; volumes, centroids and intensities differ by {off:.1g} of their value at most"
    if not with_mesh:
        return text
    ratio = float(np.median(ours["surface_um2"] / mesh_areas(labels, voxel_um)))
    return f"{text}; surface over that of marching cubes on the mask (8 % too large on balls): median {ratio:.3f}"


def surface_errors(given: Options) -> list[Table]:
    """Mean and worst relative error of the surface, per cent, by radius in voxels of the longest side."""
    radii = (3, 5, 8) if given.quick else (3, 5, 8, 12, 20)
    tables = []
    for shape in ("ball", "torus"):
        rows: dict[str, list[float | None]] = {}
        for voxel in ((1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.3, 0.2, 0.1)):
            found = [_errors(shape, r * max(voxel), voxel) for r in radii if shape == "ball" or r <= 8]
            found += [(None, None)] * (len(radii) - len(found))
            for k, which in enumerate(("mean", "worst")):
                rows[f"voxels {voxel}, {which}"] = [pair[k] for pair in found]
        title = f"error of the surface of a {shape}, % (5 places, tori of radii 2.5 r and r in 5 directions); radius r:"
        tables.append(Table(title=title, columns=[str(r) for r in radii], rows=rows, digits=2))
    return tables


def _errors(shape: str, radius: float, voxel: tuple[float, float, float]) -> tuple[float, float]:
    rng = np.random.default_rng(3)
    off = []
    for normal in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 2, 3)):
        size = radius if shape == "ball" else 3.5 * radius
        axes = [(np.arange(-int(size / v) - 2, int(size / v) + 3) + rng.random()) * v for v in voxel]
        z, y, x = np.ogrid[tuple(slice(0, len(a)) for a in axes)]
        z, y, x = axes[0][z], axes[1][y], axes[2][x]
        square = z * z + y * y + x * x
        if shape == "ball":
            mask, truth = square < radius**2, 4 * np.pi * radius**2
        else:
            a, b, c = np.asarray(normal) / np.linalg.norm(normal)
            height = a * z + b * y + c * x
            around = np.sqrt(np.maximum(square - height**2, 0))
            mask, truth = (around - 2.5 * radius) ** 2 + height**2 < radius**2, 4 * np.pi**2 * 2.5 * radius**2
        crossings = surface.block_crossings(np.pad(mask, 1).astype(np.uint8)).crossings
        off.append(100 * (float(surface.surface_areas(crossings, voxel)[0]) / truth - 1))
    return float(np.mean(off)), max(off, key=abs)


if __name__ == "__main__":
    main()
