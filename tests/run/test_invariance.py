"""Cutting never changes the numbers: blocks, workers and order against one block in one process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from scipy import ndimage

import chunkflow as cf
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import NEIGHBOURS
from chunkflow.kernels import distance, thinning
from chunkflow.plan.pipeline import STAGES
from chunkflow.stages import threshold
from chunkflow.stages.base import Flow
from chunkflow.synth import phantoms
from chunkflow.testing import suites
from chunkflow.testing.memory import run_in_memory

WHOLE = (4096, 4096, 4096)
CLOSED = np.zeros((3, 2), bool)


@pytest.fixture(scope="module")
def expected(demo_volume: Path, demo_pipeline: Callable[..., cf.Pipeline], tmp_path_factory: Any) -> cf.Result:
    """The demo volume in one block, in this process."""
    output = tmp_path_factory.mktemp("whole") / "out"
    result: cf.Result = demo_pipeline().plan(demo_volume, output, block=WHOLE).run(on="serial")
    assert len(result.objects) > 1
    assert len(result.branches) > 5
    assert result.objects.certified.all()
    return result


def _check(plan: cf.Plan, expected: cf.Result, **how: Any) -> None:
    assert max(p.units for p in plan.passes) > 1
    assert suites.differences(plan.run(**how), expected) == []


@pytest.mark.parametrize("block", [(32, 48, 40), (64, 64, 64)])
def test_blocks_one_after_the_other_leave_what_one_block_leaves(
    block: Triple, expected: cf.Result, demo_volume: Path, demo_pipeline: Any, tmp_path: Path
) -> None:
    _check(demo_pipeline().plan(demo_volume, tmp_path / "out", block=block), expected, on="serial")


@pytest.mark.parametrize(("block", "workers"), [((32, 48, 40), 2)])
def test_threads_leave_what_one_block_leaves(
    block: Triple, workers: int, expected: cf.Result, demo_volume: Path, demo_pipeline: Any, tmp_path: Path
) -> None:
    plan = demo_pipeline().plan(demo_volume, tmp_path / "out", block=block)
    _check(plan, expected, on="threads", workers=workers)


def test_a_client_of_two_workers_leaves_what_one_block_leaves(
    expected: cf.Result, demo_volume: Path, demo_pipeline: Any, tmp_path: Path, cluster: Any
) -> None:
    plan = demo_pipeline().plan(demo_volume, tmp_path / "out", block=(32, 48, 40))
    _check(plan, expected, client=cluster.client)


def test_one_local_worker_leaves_what_one_block_leaves(
    expected: cf.Result, demo_volume: Path, demo_pipeline: Any, tmp_path: Path
) -> None:
    plan = demo_pipeline().plan(demo_volume, tmp_path / "out", block=(64, 64, 64))
    _check(plan, expected, on="local", workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("block", [(32, 48, 40), (64, 64, 64)])
@pytest.mark.parametrize("workers", [2, 4])
def test_local_workers_leave_what_one_block_leaves(
    block: Triple, workers: int, expected: cf.Result, demo_volume: Path, demo_pipeline: Any, tmp_path: Path
) -> None:
    _check(demo_pipeline().plan(demo_volume, tmp_path / "out", block=block), expected, on="local", workers=workers)


@pytest.mark.slow
def test_the_format_of_the_arrays_changes_no_voxel(
    expected: cf.Result, demo_volume: Path, demo_pipeline: Any, tmp_path: Path
) -> None:
    stages = demo_pipeline().stages
    pipeline = cf.Pipeline(stages, output=cf.OutputOptions(format="0.4"))
    result = pipeline.plan(demo_volume, tmp_path / "out", block=(32, 48, 40)).run(on="serial")
    for name in ("image", "labels", "skeleton"):
        np.testing.assert_array_equal(getattr(result, name)[:], getattr(expected, name)[:])
    assert suites.graph_differences(result.graph, expected.graph) == []


# Pyramids, networks and every kind of input by the suite that ships.


def test_stages_of_images_pass_the_suite(tmp_path: Path) -> None:
    stages = [cf.Resample(), cf.Threshold(smooth_um=0.15), cf.Label(), cf.Skeleton(max_halo=512), cf.Measure()]
    suites.check_stage(stages, folder=tmp_path, cases=2, grids=1, largest=(8, 26, 28), seed=1)


def test_stages_of_images_with_nodata_pass_the_suite(tmp_path: Path) -> None:
    def padded(shape: Triple, rng: np.random.Generator) -> np.ndarray:
        image = suites.random_volume("image", shape, rng)
        image[rng.random(shape) < 0.02] = 0
        image[:, : shape[1] // 3] = 0
        return image

    stages = [cf.Resample(), cf.Threshold(method="li", smooth_um=0.15), cf.Label(), cf.Measure(intensity="image")]
    suites.check_stage(
        stages, folder=tmp_path, make=padded, cases=1, grids=1, largest=(8, 26, 28), options={"nodata": 0}
    )


def test_stages_of_labels_pass_the_suite(tmp_path: Path) -> None:
    stages = [cf.Label(min_voxels=30), cf.Skeleton(max_halo=512), cf.Measure()]
    suites.check_stage(stages, folder=tmp_path, kind="labels", cases=2, grids=1, seed=2)


def test_tiles_pass_the_suite_because_blocks_do_not_move_them(tmp_path: Path) -> None:
    psf = cf.Psf(fwhm_um=(0.6, 0.3, 0.3))
    tiles = cf.Deconvolve(psf=psf, iterations=3, tile=(8, 16, 16), halo=(2, 3, 3), tolerance=0.2)
    stages = [tiles, cf.Threshold(), cf.Label()]
    suites.check_stage(stages, folder=tmp_path, cases=1)


def test_a_network_passes_the_suite(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from chunkflow.models import load, unet

    torch.manual_seed(3)
    config = unet.UNetConfig(widths=(4, 8))
    load.save_model(unet.UNet(config), config, tmp_path / "model")
    network = cf.Predict(path=str(tmp_path / "model"), patch=(16, 16, 16), overlap=(4, 8, 4), threshold=None)
    suites.check_stage(
        [network, cf.Threshold(), cf.Label()], folder=tmp_path, cases=1, grids=1, largest=(30, 36, 40), seed=4
    )


class _Blind(threshold.Smooth):
    """Smoothing that reads one voxel less than it needs."""

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {name: box.grow((0, 0, -1)) for name, box in super().reads(out).items()}


@dataclass(frozen=True)
class _HaloTooShort:
    """A stage that uses it."""

    key = "threshold"

    def drafts(self, flow: Flow) -> Any:
        drafts, after = cf.Threshold(smooth_um=0.15).drafts(flow)
        smooth, *rest = after.mask_steps
        blind = _Blind(**{field.name: getattr(smooth, field.name) for field in fields(smooth)})
        return drafts, replace(after, mask_steps=(blind, *rest))


def test_the_suite_notices_a_halo_that_is_one_voxel_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "threshold", _HaloTooShort)
    with pytest.raises(AssertionError, match="reads"):
        suites.check_stage([_HaloTooShort(), cf.Label()], folder=tmp_path)


# Properties of masks and labels on random phantoms and grids.


def _phantom(rng: np.random.Generator) -> np.ndarray:
    shape = tuple(int(n) for n in rng.integers((5, 8, 20), (16, 26, 72)))  # longer than the first halos
    kind = rng.choice(["noise_blobs", "bernoulli", "torus", "plate", "ball", "shell"])
    seed = int(rng.integers(1000))
    if kind == "noise_blobs":
        return phantoms.noise_blobs(shape, seed, float(rng.uniform(0.8, 2.5)))
    if kind == "bernoulli":
        return phantoms.bernoulli(shape, float(rng.uniform(0.02, 0.5)), seed)
    if kind == "torus":
        return phantoms.torus(shape, min(shape[1:]) / 3, 2.2)
    if kind == "plate":
        return phantoms.plate(shape, int(rng.integers(1, 4)))
    ball = phantoms.ball(shape, float(rng.uniform(2, max(shape) / 2)))
    return ball & ~phantoms.ball(shape, 1.6) if kind == "shell" else ball


def _voxel(rng: np.random.Generator) -> tuple[float, float, float]:
    """Sides that are small multiples of a common one: distances are exact in them."""
    z, y, x = (0.05 * int(n) for n in rng.integers(1, 5, 3))
    return z, y, x


CASES = [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in (*range(3, 9), *range(100, 160)))]


@pytest.mark.parametrize("seed", CASES)
def test_random_masks_in_random_grids_equal_the_whole_and_the_definitions(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    mask, voxel_um = _phantom(rng), _voxel(rng)
    connectivity, min_voxels = [6, 18, 26][seed % 3], int(rng.choice([0, 0, 4]))
    source = suites.write_volume(tmp_path / "in.ome.zarr", mask.astype(np.uint8), voxel_um)
    stages = [
        cf.Label(connectivity=connectivity, min_voxels=min_voxels),
        cf.Skeleton(max_halo=4096, prune_radii=float(rng.choice([0, 1]))),
        cf.Measure(),
    ]
    pipeline = cf.Pipeline(stages, input=cf.InputOptions(kind="mask"), output=cf.OutputOptions(save=SAVED))
    whole = pipeline.plan(source, tmp_path / "whole", block=WHOLE).run(on="serial")
    core = suites._random_core(rng, mask.shape)
    parts = pipeline.plan(source, tmp_path / "parts", block=core).run(on="serial")
    assert suites.differences(parts, whole) == []
    _check_labels(parts, mask, connectivity, min_voxels)
    _check_skeleton(parts, voxel_um)
    _check_topology(parts)


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(s, marks=pytest.mark.slow) for s in (2, 3, *range(100, 120)))]
)
def test_random_labels_in_random_grids_equal_the_whole_and_the_definitions(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(1000 + seed)
    shape = tuple(int(n) for n in rng.integers((5, 12, 12), (16, 30, 30)))
    labels, voxel_um = suites.random_volume("labels", shape, rng), _voxel(rng)
    source = suites.write_volume(tmp_path / "in.ome.zarr", labels, voxel_um)
    stages = [cf.Skeleton(max_halo=4096), cf.Measure()]
    pipeline = cf.Pipeline(stages, input=cf.InputOptions(kind="labels"), output=cf.OutputOptions(save=SAVED[1:]))
    whole = pipeline.plan(source, tmp_path / "whole", block=WHOLE).run(on="serial")
    core = suites._random_core(rng, shape)
    parts = pipeline.plan(source, tmp_path / "parts", block=core).run(on="serial")
    assert suites.differences(parts, whole) == []
    np.testing.assert_array_equal(parts.labels[:], labels)
    _check_skeleton(parts, voxel_um)
    _check_topology(parts)


WIDE = {
    "ball": phantoms.ball((41, 43, 45), 20.3),
    "plate": phantoms.plate((5, 66, 70), 1),
    "shell": phantoms.ball((41, 33, 33), 10.2) & ~phantoms.ball((41, 33, 33), 4.2),  # blocks cut its cavity three times
}


@pytest.mark.parametrize("mask", WIDE.values(), ids=WIDE)
def test_objects_wider_than_the_first_halos_are_thinned_as_in_the_whole(mask: np.ndarray, tmp_path: Path) -> None:
    source = suites.write_volume(tmp_path / "in.ome.zarr", mask.astype(np.uint8))
    pipeline = cf.Pipeline(
        [cf.Label(), cf.Skeleton(max_halo=512), cf.Measure()],
        input=cf.InputOptions(kind="mask"),
        output=cf.OutputOptions(save=SAVED),
    )
    result = pipeline.plan(source, tmp_path / "out", block=(20, 16, 16)).run(on="serial")
    _check_skeleton(result, (1.0, 1.0, 1.0))
    _check_topology(result)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_voxels_that_touch_across_a_face_edge_or_corner_of_blocks_are_one_object(
    connectivity: Literal[6, 18, 26],
) -> None:
    """Per forward direction a cell of 2 x 2 x 2 blocks with two voxels that touch across its middle in it alone."""
    forward = NEIGHBOURS[13:]
    mask = np.zeros((8, 8, 8 * len(forward)), bool)
    for number, direction in enumerate(forward):
        first = [{0: 1, 1: 3, -1: 4}[d] for d in direction]
        for z, y, x in (first, np.add(first, direction)):
            mask[z, y, x + 8 * number] = True
    left = run_in_memory(
        [cf.Label(connectivity=connectivity)], mask.astype(np.uint8), block=(4, 4, 4), kind="mask", save=("labels",)
    )
    expected, _ = ndimage.label(mask, ndimage.generate_binary_structure(3, STRUCTURE[connectivity]))
    np.testing.assert_array_equal(left.arrays["labels"], expected)


SAVED = ("mask", "labels", "skeleton")
STRUCTURE = {6: 1, 18: 2, 26: 3}


def _check_labels(result: cf.Result, mask: np.ndarray, connectivity: int, min_voxels: int) -> None:
    """Id for id what scipy gives; after a filter the remaining ones are numbered without gaps."""
    found, count = ndimage.label(mask, ndimage.generate_binary_structure(3, STRUCTURE[connectivity]))
    kept = np.flatnonzero(np.bincount(found.ravel(), minlength=count + 1) >= min_voxels)
    kept = kept[kept > 0]
    ids = np.zeros(count + 1, int)
    ids[kept] = np.arange(1, len(kept) + 1)
    np.testing.assert_array_equal(result.labels[:], ids[found])
    np.testing.assert_array_equal(result.mask[:], mask)


def _filled(labels: np.ndarray) -> np.ndarray:
    """Cavities that hold background alone and one label all around them are that label's."""
    filled = labels.copy()
    holes, count = ndimage.label(np.pad(labels == 0, 1, constant_values=True))
    for hole in range(1, count + 1):
        inside = holes == hole
        if inside[0, 0, 0]:
            continue
        rim = ndimage.binary_dilation(inside) & ~inside
        around = np.unique(np.pad(labels, 1)[rim])
        if len(around) == 1:
            filled[inside[1:-1, 1:-1, 1:-1]] = around[0]
    return filled


def _check_skeleton(result: cf.Result, voxel_um: tuple[float, float, float]) -> None:
    """Voxel for voxel the thinning of the whole filled volume at once; nothing is left open."""
    labels = np.ascontiguousarray(result.labels[:])
    filled = _filled(labels)
    weights = distance.integer_weights(voxel_um)
    d2 = distance.squared_distance(filled, weights=weights)
    thinned = thinning.thin(filled, d2, origin=(0, 0, 0), open_borders=CLOSED, weights=weights)
    np.testing.assert_array_equal(result.skeleton[:], np.where(thinned.skeleton, filled, 0))
    if len(result.objects):
        assert (result.objects.certified == (result.objects.b1_graph == result.objects.b1_filled)).all()


def _check_topology(result: cf.Result) -> None:
    """b0, b1, b2 of every object by counting: components, Euler characteristic of the cells, cavities."""
    labels, filled = result.labels[:], _filled(result.labels[:])
    ids = [int(i) for i in np.unique(labels) if i]
    assert result.objects.object_id.tolist() == ids
    for row in result.objects.itertuples():
        mask = labels == row.object_id
        assert row.volume_vox == mask.sum()
        assert (row.b0, row.b1, row.b2) == _betti(mask)
        assert row.b1_filled == _betti(filled == row.object_id)[1]
        if result.skeleton is not None:
            assert row.certified
            assert row.b1_graph == row.b1_filled


def _betti(mask: np.ndarray) -> tuple[int, int, int]:
    padded = np.pad(mask, 1)
    b0 = ndimage.label(padded, np.ones((3, 3, 3)))[1]
    b2 = ndimage.label(~padded)[1] - 1
    return b0, b0 + b2 - _euler(padded), b2


def _euler(padded: np.ndarray) -> int:
    """Cells of the union of closed voxels: vertices - edges + faces - cubes, each counted where any voxel has it."""
    chi = 0
    for axes in np.ndindex(2, 2, 2):  # which axes the cells are spread along
        cells = padded
        for axis, spread in enumerate(axes):
            if not spread:
                low = [slice(None)] * 3
                high = [slice(None)] * 3
                low[axis], high[axis] = slice(0, -1), slice(1, None)
                cells = cells[tuple(low)] | cells[tuple(high)]
        chi += (-1) ** sum(axes) * int(cells.sum())
    return chi
