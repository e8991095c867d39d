"""Tiles against the whole volume for every algorithm, whatever the blocks; samples that stop a run; PSFs by choice."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import chunkflow as cf
from chunkflow.errors import ConfigError, InputError, PlanError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import blur
from chunkflow.stages.base import Region
from chunkflow.stages.deconvolve import Deconvolve
from chunkflow.stages.psf import Psf, PsfOnGrid
from chunkflow.stages.restoration import ALGORITHMS, Restoration
from chunkflow.storage.records import merged_path, read_record
from chunkflow.testing import suites

Image = NDArray[np.float32]
VOXEL_UM = (0.2, 0.1, 0.1)
GAUSSIAN = Psf(fwhm_um=(0.6, 0.25, 0.25))
WIDEFIELD = Psf(microscope="widefield", objective="60x/1.2 water", emission_nm=520, size=(31, 31, 31))
CONFOCAL = Psf(microscope="confocal", objective="63x/1.4 oil", emission_nm=525, sample_index=1.515)
ITERATIVE = [name for name, known in ALGORITHMS.items() if known.iterations]
LINEAR = ["regularized-inverse", "wiener"]  # the naive inverse has no halo that would do


def stage(algorithm: str = "richardson-lucy", psf: Psf = GAUSSIAN, **options: Any) -> Deconvolve:
    bounds = (0.0, 4000.0) if algorithm == "bounded-landweber" else None
    return Deconvolve(psf=psf, algorithm=algorithm, bounds=bounds, **options)


@cache
def rods(shape: Triple, psf: Psf, photons: float = 300.0) -> tuple[Image, PsfOnGrid]:
    """Random bright rods on a dim ground, blurred, with Poisson noise; and the PSF."""
    on_grid = psf.on_grid(VOXEL_UM, shape)
    rng = np.random.default_rng(11)
    scene = np.full(shape, 10.0, np.float32)
    for _ in range(120):
        start = [int(rng.integers(0, n - 2)) for n in shape]
        length = [2, 2, 2]
        length[int(rng.integers(3))] = int(rng.integers(6, 30))
        scene[tuple(slice(a, a + n) for a, n in zip(start, length, strict=True))] = photons
    operator = blur.Blur(on_grid.kernels[0], shape, np)
    seen = np.full(operator.domain, 10.0, np.float32)
    seen[tuple(slice(n) for n in shape)] = scene
    return rng.poisson(np.maximum(operator.forward(seen), 0)).astype(np.float32), on_grid


def restoration_of(chosen: Deconvolve, on_grid: PsfOnGrid, volume: Triple) -> Restoration:
    return Restoration(
        method=chosen.method(on_grid),
        iterations=chosen.count,
        background=chosen.background,
        edges=chosen.edges,
        source="input",
        limits="range",
        psf_shape=triple(on_grid.kernels.shape[1:]),
        psfs=len(on_grid.kernels),
        is_separable=False,
        volume=volume,
    )


def worst_tile(chosen: Deconvolve, image: Image, on_grid: PsfOnGrid, core: Triple, shrunk: float = 1.0) -> float:
    """Largest relative difference (L2) of a tile's core from the whole volume, at the halo of the rule."""
    volume = Box.of_shape(triple(image.shape))
    halo = chosen.halo_for(on_grid, chosen.method(on_grid), volume.shape)
    halo = triple(tuple(int(h * shrunk) for h in halo))
    restoration = restoration_of(chosen, on_grid, volume.shape)
    constants = {"psf": on_grid.kernels, "psf_planes": on_grid.planes}
    start = float(image.max() + image.min()) / 2

    def restored(out: Box, read: Box) -> NDArray[np.float64]:
        region = Region(read, image[read.slices])
        return np.asarray(restoration.restored(region, out, halo, constants, start), np.float64)

    whole = restored(volume, volume)
    worst = 0.0
    grid = Grid(volume.shape, core)
    for index in range(len(grid)):
        out = grid.core_of(index)
        expected = whole[out.slices]
        difference = np.linalg.norm(restored(out, grid.read_of(index, halo)) - expected)
        worst = max(worst, float(difference / np.linalg.norm(expected)))
    return worst


@cache
def beads(shape: Triple, psf: Psf) -> tuple[Image, PsfOnGrid]:
    """A dozen bright points on a dark ground, blurred, with Poisson noise; and the PSF."""
    on_grid = psf.on_grid(VOXEL_UM, shape)
    rng = np.random.default_rng(3)
    operator = blur.Blur(on_grid.kernels[0], shape, np)
    scene = np.full(operator.domain, 0.05, np.float32)
    for _ in range(12):
        scene[tuple(int(rng.integers(2, n - 2)) for n in shape)] += 20000
    return rng.poisson(np.maximum(operator.forward(scene), 0)).astype(np.float32), on_grid


@pytest.mark.parametrize("scene", [beads, pytest.param(rods, marks=pytest.mark.slow)])
@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("algorithm", [*ITERATIVE, *LINEAR])
def test_every_tile_agrees_with_the_whole_volume(algorithm: str, momentum: bool, scene: Any) -> None:
    if momentum and not ALGORITHMS[algorithm].has_momentum:
        pytest.skip(f"{algorithm} has no momentum")
    chosen = stage(algorithm, momentum=momentum)
    if ALGORITHMS[algorithm].iterations:
        chosen = replace(chosen, iterations=max(ALGORITHMS[algorithm].iterations, 2))
    image, on_grid = scene((60, 72, 72), GAUSSIAN)
    assert worst_tile(chosen, image, on_grid, (30, 36, 36)) <= chosen.tolerance


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [10, 30])
@pytest.mark.parametrize("psf", [WIDEFIELD, CONFOCAL], ids=["widefield", "confocal"])
@pytest.mark.parametrize("algorithm", ["richardson-lucy", "richardson-lucy-tv"])
def test_tiles_of_microscopes_agree_with_the_whole_volume(algorithm: str, psf: Psf, iterations: int) -> None:
    image, on_grid = rods((128, 160, 160), psf)
    chosen = stage(algorithm, psf, iterations=iterations)
    assert worst_tile(chosen, image, on_grid, (64, 80, 80)) <= chosen.tolerance


@pytest.mark.parametrize("seed", range(4))
def test_tiles_of_random_grids_agree_with_the_whole_volume(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = triple([int(n) for n in rng.integers(40, 90, 3)])
    core = triple([int(n) for n in rng.integers(24, 60, 3)])
    image, on_grid = rods(shape, GAUSSIAN)
    chosen = stage(iterations=int(rng.integers(1, 12)), edges=["extended", "reflect", "zero"][seed % 3])
    assert worst_tile(chosen, image, on_grid, core) <= chosen.tolerance


def test_half_the_halo_would_not_do() -> None:
    image, on_grid = rods((80, 96, 96), GAUSSIAN)
    assert worst_tile(stage(), image, on_grid, (40, 48, 48), shrunk=0.5) > stage().tolerance


@pytest.mark.parametrize("algorithm", [*ITERATIVE, *LINEAR])
def test_blocks_leave_the_same_bits(algorithm: str, tmp_path: Path) -> None:
    tiles = stage(algorithm, tile=(16, 24, 24), halo=(4, 6, 6), tolerance=0.9)
    suites.check_stage([tiles], folder=tmp_path, cases=1, grids=3, largest=(24, 36, 36), voxel_um=VOXEL_UM)


@pytest.mark.thorough
def test_a_psf_per_slab_leaves_the_same_bits_and_agrees_with_the_whole(tmp_path: Path) -> None:
    depth = Psf(
        microscope="confocal", objective="63x/1.4 oil", emission_nm=525, slab_um=2.0, sample_index=1.36, size=(41, 9, 9)
    )
    image, _ = rods((48, 40, 40), GAUSSIAN)
    on_grid = depth.on_grid(VOXEL_UM, triple(image.shape))
    assert len(on_grid.kernels) == 6
    assert list(on_grid.planes) == [0, 10, 20, 30, 40, 50]
    centres = [float((k.sum(axis=(1, 2)) * np.arange(41)).sum()) for k in on_grid.kernels]
    assert centres == sorted(centres)  # light from deeper down appears ever further up: less refraction in the sample
    tiles = stage(psf=depth, iterations=4, tile=(16, 24, 24))
    assert worst_tile(tiles, image, on_grid, (16, 24, 24)) <= tiles.tolerance
    tiles = replace(tiles, tolerance=0.9, halo=(6, 6, 6))
    suites.check_stage([tiles], folder=tmp_path, cases=1, largest=(84, 30, 30), voxel_um=VOXEL_UM)


def run(folder: Path, image: NDArray[Any], chosen: Deconvolve, **options: Any) -> cf.Result:
    source = suites.write_volume(folder / "in.ome.zarr", image, VOXEL_UM)
    pipeline = cf.Pipeline([chosen], input=cf.InputOptions(**options), output=cf.OutputOptions(save=("image",)))
    return pipeline.plan(source, folder / "out").run(on="serial")


def merged(result: cf.Result, name: str) -> Any:
    (folder,) = (result.path / "run" / "records").glob(f"{name}-" + "[0-9a-f]" * 16)
    return read_record(merged_path(folder))


def test_samples_measure_what_tiles_miss(tmp_path: Path) -> None:
    image, on_grid = rods((80, 96, 96), GAUSSIAN)
    chosen = stage(tile=(40, 48, 48))
    measured = float(merged(run(tmp_path, image, chosen), "deconvolve-check")["difference"][0])
    assert 0 < measured <= chosen.tolerance
    assert measured > 0.2 * worst_tile(chosen, image, on_grid, (40, 48, 48))


def test_samples_of_a_halo_of_nothing_are_compared_with_one_of_the_psfs_reach(tmp_path: Path) -> None:
    image, _ = rods((80, 96, 96), GAUSSIAN)
    with pytest.raises(PlanError, match=r"halo of \[0, 0, 0\]"):
        run(tmp_path, image, stage(tile=(40, 48, 48), halo=(0, 0, 0)))


def test_samples_without_light_measure_nothing_and_do_not_say_zero(tmp_path: Path) -> None:
    image = np.zeros((24, 96, 96), np.float32)
    image[2:5, 2:5, 2:5] = 500
    result = run(tmp_path, image, stage(tile=(24, 32, 32)))
    assert np.isnan(merged(result, "deconvolve-check")["difference"][0])


def test_voxels_without_data_neither_shine_nor_darken_what_is_beside_them(tmp_path: Path) -> None:
    image, _ = rods((24, 40, 60), GAUSSIAN)
    cut = image.astype(np.uint16)
    cut[:, :, 40:] = 60000
    result = run(tmp_path, cut, stage(dtype="uint16", scale=8.0), nodata=60000)
    alone = run(tmp_path / "alone", image[:, :, :40].astype(np.uint16), stage(dtype="uint16", scale=8.0))
    assert result.image is not None and alone.image is not None
    inner, expected = result.image[...][:, :, :38] / 8.0, alone.image[...][:, :, :38] / 8.0
    assert np.linalg.norm(inner - expected) < 0.01 * np.linalg.norm(expected)
    assert int(merged(result, "deconvolve-range")["clipped"][0]) == int(merged(alone, "deconvolve-range")["clipped"][0])


def test_a_restoration_that_diverges_says_so_and_writes_nothing(tmp_path: Path) -> None:
    image, _ = rods((24, 40, 40), CONFOCAL)
    with pytest.raises(PlanError, match="diverge"):
        run(tmp_path, image, stage("masked-wiener", CONFOCAL, iterations=200))
    assert not (tmp_path / "out" / "image.ome.zarr").exists()


@pytest.mark.parametrize("algorithm", ["masked-wiener", "landweber", "fista"])
def test_stop_auto_never_takes_an_iteration_that_diverged(algorithm: str, tmp_path: Path) -> None:
    image, _ = beads((24, 48, 48), GAUSSIAN)
    result = run(tmp_path, image, stage(algorithm, stop="auto", iterations=25, background=0.0))
    check = merged(result, "deconvolve-check")
    count = int(check["iterations"][0])
    assert np.isfinite(check["curve"][:count, 2]).any()
    assert np.isfinite(check["curve"][count - 1, 2])
    assert result.image is not None
    assert np.isfinite(result.image[...]).all()


def test_a_plane_is_restored_by_every_algorithm(tmp_path: Path) -> None:
    image = rods((24, 60, 60), GAUSSIAN)[0].max(axis=0, keepdims=True)
    widefield = Psf(microscope="widefield", objective="60x/1.2 water", emission_nm=520)
    for algorithm in ALGORITHMS:
        restored = run(tmp_path / algorithm, image, stage(algorithm, widefield)).image
        assert restored is not None
        assert np.isfinite(restored[...]).all()


def test_a_changed_tolerance_alone_restores_no_tile_again() -> None:
    before, after = (plan_of(stage(tolerance=t, halo=(6, 6, 6)), shape=(200, 200, 200))[0] for t in (1e-3, 1e-2))
    assert {d.name for d in before} == {"deconvolve-probe", "deconvolve-check", "deconvolve", "deconvolve-range"}
    assert before[2] == replace(after[2], constants=before[2].constants)
    assert before[1] != after[1]


def test_a_background_above_the_image_is_refused(tmp_path: Path) -> None:
    image, _ = rods((24, 40, 40), GAUSSIAN)
    with pytest.raises(InputError, match="background"):
        run(tmp_path, image, stage(background=1e6))


@pytest.mark.parametrize("factor", [1e-8, 1e6])
def test_the_unit_of_the_image_changes_nothing(factor: float, tmp_path: Path) -> None:
    image, _ = rods((24, 40, 40), GAUSSIAN)
    for algorithm in ("richardson-lucy", "landweber", "fista"):
        plain = run(tmp_path / algorithm / "a", image, stage(algorithm)).image
        other = run(tmp_path / algorithm / "b", image * np.float32(factor), stage(algorithm)).image
        assert plain is not None and other is not None
        np.testing.assert_allclose(other[...] / factor, plain[...], rtol=1e-3, atol=1e-3 * float(plain[...].max()))


def test_a_halo_too_small_stops_before_a_tile_is_written_and_names_one_that_will_do(tmp_path: Path) -> None:
    image, _ = rods((80, 96, 96), GAUSSIAN)
    chosen = stage(tile=(40, 48, 48), halo=(6, 5, 5))
    with pytest.raises(PlanError, match=r"halo of \[6, 5, 5\].*more than the tolerance") as raised:
        run(tmp_path, image, chosen)
    assert not list((tmp_path / "out").glob("**/deconvolved*"))
    assert not (tmp_path / "out" / "image.ome.zarr").exists()
    text = str(raised.value)
    named = text[text.index("halo: [") + 7 :].split("]")[0]
    z, y, x = (int(n) for n in named.split(","))
    result = run(tmp_path / "again", image, replace(chosen, halo=(z, y, x)))
    assert result.image is not None


def test_a_whole_volume_in_one_tile_needs_no_samples(tmp_path: Path) -> None:
    image, _ = rods((24, 30, 30), GAUSSIAN)
    result = run(tmp_path, image, stage(iterations=3))
    assert np.isnan(merged(result, "deconvolve-check")["difference"][0])
    assert not list((result.path / "run" / "records").glob("deconvolve-probe*"))


def test_stop_auto_takes_one_count_for_the_volume_and_leaves_its_curve(tmp_path: Path) -> None:
    image, _ = rods((48, 64, 64), GAUSSIAN, 120.0)
    chosen = stage(stop="auto", iterations=30, tile=(24, 32, 32))
    result = run(tmp_path, image, chosen)
    check = merged(result, "deconvolve-check")
    count = int(check["iterations"][0])
    residual, divergence, gcv, resolution = check["curve"].T
    assert check["curve"].shape == (30, 4)
    assert count == int(np.argmin(gcv)) + 1
    assert (np.diff(divergence) < 1e-6).all()  # Richardson-Lucy goes down in what it minimises
    assert 0 < residual[-1] < residual[0] < 1
    assert (resolution > 0.15).all()
    same = run(tmp_path / "fixed", image, stage(iterations=count, tile=(24, 32, 32)))
    assert result.image is not None and same.image is not None
    assert np.allclose(result.image[...], same.image[...], rtol=0.1, atol=1.0)


def test_a_uint16_image_is_scaled_clipped_and_counted(tmp_path: Path) -> None:
    image, _ = rods((24, 40, 40), GAUSSIAN)
    plain = run(tmp_path / "plain", image, stage()).image
    scaled = run(tmp_path / "auto", image, stage(dtype="uint16"))
    cut = run(tmp_path / "cut", image, stage(dtype="uint16", scale=400.0))
    assert plain is not None and scaled.image is not None and cut.image is not None
    assert scaled.image.dtype == np.uint16
    factor = 65535 / (4 * image.max())
    np.testing.assert_allclose(scaled.image[...], plain[...] * factor, atol=0.51)
    beyond = int((plain[...] * np.float32(400) > 65535.5).sum())
    assert beyond > 0
    assert int(merged(cut, "deconvolve-range")["clipped"][0]) == pytest.approx(beyond, abs=2)
    assert cut.image[...].max() == 65535


def test_negative_voxels_are_counted_or_refused(tmp_path: Path) -> None:
    image, _ = rods((24, 40, 40), GAUSSIAN)
    image = image - 12
    result = run(tmp_path / "clip", image, stage())
    assert int(merged(result, "range")["negative"][0]) == int((image < 0).sum()) > 0
    with pytest.raises(InputError, match="negative"):
        run(tmp_path / "fail", image, stage(negative="fail"))
    assert not (tmp_path / "fail" / "out" / "image.ome.zarr").exists()


def test_saturated_voxels_are_counted(tmp_path: Path) -> None:
    image = np.minimum(rods((24, 40, 40), GAUSSIAN)[0], 100).astype(np.uint16)
    assert int(merged(run(tmp_path, image, stage()), "range")["at_high"][0]) == int((image == 100).sum()) > 1


@pytest.mark.parametrize("edges", ["circular", "zero", "reflect"])
def test_edges_are_what_they_say(edges: Any, tmp_path: Path) -> None:
    image, on_grid = rods((24, 40, 40), GAUSSIAN)
    chosen = stage(edges=edges, iterations=5)
    got = run(tmp_path, image, chosen).image
    assert got is not None
    kernel, start = on_grid.kernels[0], float(image.max() + image.min()) / 2
    if edges == "reflect":  # the same object mirrored at every side looks the same
        wide = np.pad(image, 20, mode="symmetric")
        expected = by_definition(wide, kernel, "zero", start, 5)[20:-20, 20:-20, 20:-20]
        assert np.linalg.norm(got[...] - expected) < 2e-3 * np.linalg.norm(expected)
    else:
        expected = by_definition(image, kernel, edges, start, 5)
        assert np.linalg.norm(got[...] - expected) < 1e-5 * np.linalg.norm(expected)


def by_definition(image: Image, kernel: Image, edges: str, start: float, iterations: int) -> NDArray[np.float64]:
    """Richardson-Lucy by scipy.ndimage, in float64."""
    from scipy import ndimage

    mode = {"circular": "wrap", "zero": "constant"}[edges]
    k = kernel.astype(np.float64)

    def blurred(x: Any) -> Any:
        return ndimage.convolve(x, k, mode=mode)

    def back(r: Any) -> Any:
        return ndimage.correlate(r, k, mode=mode)

    x = np.full(image.shape, start)
    seen = back(np.ones(image.shape))
    for _ in range(iterations):
        x = x * back(image / blurred(x)) / seen
    return x


def test_circular_edges_take_the_volume_whole() -> None:
    with pytest.raises(PlanError, match="circular"):
        plan_of(stage(edges="circular", tile=(16, 16, 16)))


def plan_of(chosen: Deconvolve, *, channel: str = "", optics: Any = None, shape: Triple = (40, 60, 60)) -> Any:
    """The drafts of the stage on a volume that is not there."""
    from chunkflow.geometry.scale import Scale
    from chunkflow.stages.base import Flow

    flow = Flow(
        kind="image",
        shape=shape,
        scale=Scale(VOXEL_UM),
        input_shape=shape,
        input_scale=Scale(VOXEL_UM),
        input_dtype="uint16",
        block=(32, 32, 32),
        save=frozenset({"image"}),
        wants=frozenset({"deconvolve"}),
        image="input",
        image_range="range",
        channel=channel,
        optics=optics or {},
    )
    return chosen.drafts(flow)


def test_the_psf_of_the_chosen_channel_is_used() -> None:
    psfs = {"mito": GAUSSIAN, "dna": Psf(fwhm_um=(0.8, 0.3, 0.3))}
    (*_, tiles, _), flow = plan_of(Deconvolve(psf=psfs), channel="dna")
    expected = psfs["dna"].on_grid(VOXEL_UM, (40, 60, 60)).kernels
    assert np.array_equal(tiles.constants["psf"], expected)
    assert flow.facts["psf"]["fwhm_um"][0] == pytest.approx([0.8, 0.3, 0.3], rel=0.05)
    with pytest.raises(PlanError, match=r"'actin' has no PSF.*mito, dna"):
        plan_of(Deconvolve(psf=psfs), channel="actin")
    (*_, tiles, _), _ = plan_of(Deconvolve(psf={"0": psfs["dna"], "1": GAUSSIAN}))
    assert np.array_equal(tiles.constants["psf"], expected)


def test_expansion_leaves_the_optics_in_um_as_imaged(tmp_path: Path) -> None:
    image, _ = rods((24, 40, 40), GAUSSIAN)
    plain = run(tmp_path / "plain", image, stage())
    swollen = run(tmp_path / "swollen", image, stage(), expansion=4.0)
    assert plain.image is not None and swollen.image is not None
    assert np.array_equal(plain.image[...], swollen.image[...])
    assert swollen.image.voxel_um == pytest.approx([v / 4 for v in VOXEL_UM])


def test_expansion_divides_the_lengths_of_tables(tmp_path: Path) -> None:
    image, _ = rods((24, 40, 40), GAUSSIAN)
    source = suites.write_volume(tmp_path / "in.ome.zarr", image, VOXEL_UM)
    stages = [stage(), cf.Threshold(), cf.Label(), cf.Skeleton(), cf.Measure()]
    plain, swollen = (
        cf.Pipeline(stages, input=cf.InputOptions(expansion=factor)).plan(source, tmp_path / name).run(on="serial")
        for factor, name in ((1.0, "plain"), (4.0, "swollen"))
    )
    for column, power in (("volume_um3", 3), ("centroid_x_um", 1)):
        np.testing.assert_allclose(swollen.objects[column] * 4.0**power, plain.objects[column], rtol=1e-9)
    np.testing.assert_allclose(swollen.branches["length_um"] * 4, plain.branches["length_um"], rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"algorithm": "lucy"}, "unknown algorithm"),
        ({"iterations": 0}, "0 iterations"),
        ({"algorithm": "wiener", "iterations": 3}, "wiener has no iterations"),
        ({"algorithm": "wiener", "stop": "auto"}, "wiener has no iterations to stop"),
        ({"algorithm": "wiener-butterworth", "momentum": True}, "has no momentum"),
        ({"regularization": 0.1}, "has no regularization"),
        ({"algorithm": "richardson-lucy-tv", "regularization": 0.3}, "diverges"),
        ({"algorithm": "landweber", "step": 2.5}, "diverges with step 2.5"),
        ({"algorithm": "ictm", "regularization": 1.5}, "diverges"),
        ({"algorithm": "bounded-landweber"}, "needs bounds"),
        ({"algorithm": "bounded-landweber", "bounds": (5.0, 1.0)}, "empty"),
        ({"scale": 2.0}, "float32"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"algorithm": "wiener", "edges": "zero"}, "no zero edges"),
        ({"stop": "auto", "edges": "circular"}, "samples"),
        ({"background": -1.0}, "background"),
    ],
)
def test_choices_that_make_no_sense_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Deconvolve(psf=GAUSSIAN, **options)


def test_a_naive_inverse_is_refused_with_what_would_do() -> None:
    with pytest.raises(PlanError, match="inverse filter"):
        plan_of(stage("naive-inverse"), shape=(128, 300, 300))
    (*_, tiles, _), _ = plan_of(stage("naive-inverse"))  # a volume in one tile is cut nowhere
    assert len(tiles.grid) == 1


def test_inverse_halos_follow_from_the_filter() -> None:
    (*_, tiles, _), _ = plan_of(stage("wiener"), shape=(128, 256, 256))
    assert max(tiles.steps[0].halo) > 8
    wide = plan_of(stage("wiener", regularization=0.5), shape=(128, 256, 256))[0]
    assert wide[-2].steps[0].halo < tiles.steps[0].halo


@pytest.mark.parametrize("axis", range(3))
def test_no_seam_is_seen_in_the_difference(axis: int) -> None:
    image, on_grid = rods((80, 96, 96), GAUSSIAN)
    chosen = stage()
    core = (40, 48, 48)
    volume = Box.of_shape(triple(image.shape))
    halo = chosen.halo_for(on_grid, chosen.method(on_grid), volume.shape)
    restoration = restoration_of(chosen, on_grid, volume.shape)
    constants = {"psf": on_grid.kernels, "psf_planes": on_grid.planes}
    start = float(image.max() + image.min()) / 2
    grid = Grid(volume.shape, core)
    whole = np.asarray(restoration.restored(Region(volume, image), volume, halo, constants, start), np.float64)
    tiled = np.empty_like(whole)
    for index in range(len(grid)):
        read = grid.read_of(index, halo)
        out = grid.core_of(index)
        tiled[out.slices] = restoration.restored(Region(read, image[read.slices]), out, halo, constants, start)
    jump = np.diff(tiled, axis=axis).take(core[axis] - 1, axis=axis)
    smooth = np.diff(whole, axis=axis).take(core[axis] - 1, axis=axis)
    assert np.abs(jump - smooth).max() < 1e-2 * np.abs(whole).max()
