"""Functions of the user's, tile by tile: no block shows, tiles agree, and what cannot work is said before the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy import ndimage

import chunkflow as cf
from chunkflow.errors import ConfigError, IncompleteError, ModelError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.plan.plan import Plan
from chunkflow.run.result import Result
from chunkflow.stages import functions
from chunkflow.stages.lattice import Lattice
from chunkflow.testing.suites import check_stage, differences, random_volume, write_volume

SEGMENTERS = """
import numpy as np
from scipy import ndimage

NUMBER = 3


def blobs(image, above=500):
    return ndimage.label(image > above, np.ones((3, 3, 3)))[0] * 5


def edges(image):  # every tile sees another thing at its sides
    found = blobs(image, 400)
    found[:, :1] = 7
    return found


def parted(image):
    # one object in the tile that begins at the marked voxel, two in the other
    labels = np.ones(image.shape, np.int8)
    if image[0, 0, 0] != 9:
        labels[:, :, 5:] = 2
    return labels


def sizes(image, voxel_um, factor=1):
    return np.full(image.shape, round(factor * voxel_um[0] * 10), np.uint8)


def floating(image):
    return image.astype(float)


def boolean(image):
    return image > 0


def negative(image):
    return -image.astype(np.int32)


def flat(image):
    return image[0]


def broken(image):
    raise ZeroDivisionError("no cells")


def median(image, size):
    return ndimage.median_filter(image, size)


def local(image, voxel_um):  # real numbers, and where a tile begins shows beyond its halo
    smooth = ndimage.gaussian_filter(image.astype(np.float64), [0.3 / v for v in voxel_um], truncate=3)
    smooth[:2] += image[0, 0, 0]
    return smooth


def above(image):
    return image > 400


def tall(image):
    return image.astype(np.float64) * 1e40


def holed(image):
    return np.where(image == 9, np.nan, image.astype(np.float32))


def complicated(image):
    return image * 1j


def ragged(image):
    return image.astype(object)


class Net:
    @staticmethod
    def find(image):
        return blobs(image)
"""


@pytest.fixture(autouse=True)
def segmenters(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("segmenters")
    (folder / "segmenters.py").write_text(SEGMENTERS)
    monkeypatch.syspath_prepend(str(folder))


def planned(folder: Path, stages: list[Any], array: NDArray[Any], block: Triple = (64, 64, 64), **options: Any) -> Plan:
    """A plan on an array, stored under the first folder that is free."""
    folder = folder / str(len(list(folder.iterdir())))
    source = write_volume(folder / "in.ome.zarr", array, (0.3, 0.2, 0.1), translation_um=(1.0, 2.0, 3.0))
    kept = cf.OutputOptions(save=("image", "labels"))
    return cf.Pipeline(stages, input=cf.InputOptions(**options), output=kept).plan(source, folder / "out", block=block)


def run(folder: Path, stages: list[Any], array: NDArray[Any], block: Triple = (64, 64, 64), **options: Any) -> Result:
    return planned(folder, stages, array, block, **options).run(on="serial")


def labels_by(name: str, **values: Any) -> cf.Apply:
    """The stage with a function of the module above that gives labels, seen with a halo of 16 if nothing is said."""
    return cf.Apply(function=f"segmenters:{name}", output="labels", **({"halo": 16} | values))


def image_by(name: str, **values: Any) -> cf.Apply:
    return cf.Apply(function=f"segmenters:{name}", output="image", **values)


def labels_of(result: Result) -> NDArray[Any]:
    assert result.labels is not None
    return np.asarray(result.labels[:])


def image_of(result: Result) -> NDArray[Any]:
    assert result.image is not None
    return np.asarray(result.image[:])


def balls(shape: Triple, centres: list[Triple], radius: float) -> NDArray[np.uint16]:
    voxel = np.stack(np.indices(shape), axis=-1)
    inside = [((voxel - centre) ** 2).sum(axis=-1) <= radius**2 for centre in centres]
    return np.where(np.any(inside, axis=0), 1000, 10).astype(np.uint16)


def test_objects_of_tiles_do_not_depend_on_blocks(tmp_path: Path) -> None:
    stages = [labels_by("edges", tile=(9, 12, 10), halo=(2, 3, 4), min_voxels=3), cf.Measure()]
    check_stage(stages, folder=tmp_path, cases=2, grids=2, largest=(16, 30, 30), options={"nodata": 420})


def test_objects_shorter_than_the_halo_are_those_of_the_function_on_the_whole_volume(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (23, 41, 37)
    centres = [triple([int(rng.integers(0, n)) for n in shape]) for _ in range(60)]
    centres += [(10, 20, 12), (12, 12, 12)]  # on an edge and on a corner of tiles
    image = balls(shape, centres, 2.4)
    image[ndimage.label(image > 500, np.ones((3, 3, 3)))[0] == 0] = 10
    clusters = ndimage.label(image > 500, np.ones((3, 3, 3)))[0]
    boxes = ndimage.find_objects(clusters)
    long = [i for i, box in enumerate(boxes, 1) if max(s.stop - s.start for s in box) > 6]
    image[np.isin(clusters, long)] = 10
    truth = ndimage.label(image > 500, np.ones((3, 3, 3)))[0]
    assert truth.max() > 15
    stages = [labels_by("blobs", tile=(12, 12, 12), halo=6)]
    result = run(tmp_path, stages, image, (8, 41, 16))
    assert np.array_equal(labels_of(result), truth)
    assert (result.seams.pairs == result.seams.merged).all()
    assert result.seams.merged.sum() > 10
    one = [labels_by("blobs", tile=64, halo=6)]
    assert np.array_equal(labels_of(run(tmp_path, one, image)), truth)


def test_an_object_longer_than_tiles_is_one_through_all_of_them(tmp_path: Path) -> None:
    image = np.full((12, 13, 50), 10, np.uint16)
    image[3:6, 5:8, 2:48] = 1000
    image[8:10, 5:8, 2:48] = 1000
    result = run(tmp_path, [labels_by("Net.find", tile=(12, 7, 9), halo=3)], image)
    assert np.array_equal(labels_of(result), ndimage.label(image > 500)[0])


def test_the_table_of_seams_says_what_was_seen_merged_and_not_decided(tmp_path: Path) -> None:
    """Both see 8 voxels along x. The first tile has one object, the second one of 5 voxels of these and one of 3."""
    image = np.zeros((4, 4, 20), np.uint16)
    image[0, 0, 0] = 9
    stages = [labels_by("parted", tile=(4, 4, 12), halo=4)]
    result = run(tmp_path, stages, image, (4, 4, 5))
    (row,) = result.seams.to_dict("records")
    assert {name: row[name] for name in ("tile_a", "tile_b", "axis", "pairs", "merged", "ambiguous")} == {
        "tile_a": 0,
        "tile_b": 1,
        "axis": "x",
        "pairs": 2,
        "merged": 1,
        "ambiguous": 1,
    }
    assert [row[f"{axis}_um"] for axis in "zyx"] == pytest.approx([1 + 0.3 * 1.5, 2 + 0.2 * 1.5, 3 + 0.1 * 11.5])
    labels = labels_of(result)
    assert (labels[:, :, :13] == 1).all()
    assert (labels[:, :, 13:] == 2).all()
    strict = [labels_by("parted", tile=(4, 4, 12), halo=4, overlap=0.75)]
    assert run(tmp_path, strict, image).seams[["merged", "ambiguous"]].to_numpy().tolist() == [[1, 0]]
    stricter = [labels_by("parted", tile=(4, 4, 12), halo=4, overlap=0.82)]
    apart = run(tmp_path, stricter, image)
    assert apart.seams[["merged", "ambiguous"]].to_numpy().tolist() == [[0, 0]]
    assert labels_of(apart).max() == 3
    report = (result.path / "report.html").read_text()
    assert "At 1 seam between tiles, 1 of 2 pairs of objects that overlap are one object, and 1 are ambiguous" in report
    assert "at the seams of tiles 1 of 2 pairs of alike objects are ambiguous" in report
    assert "pairs of alike objects" not in (apart.path / "report.html").read_text()


def test_one_tile_has_no_seams(tmp_path: Path) -> None:
    result = run(tmp_path, [labels_by("blobs")], balls((9, 10, 11), [(4, 4, 4)], 3))
    assert labels_of(result).max() == 1
    assert result.seams.empty


def test_small_objects_go_after_merging_and_the_others_are_numbered_without_them(tmp_path: Path) -> None:
    image = balls((12, 14, 40), [(5, 6, 4), (5, 6, 20), (5, 6, 33)], 3.2)
    image[:, :, :8] = 10
    image[2, 2, 2] = 1000
    stages = [labels_by("blobs", tile=(12, 14, 20), halo=8, min_voxels=100)]
    labels = labels_of(run(tmp_path, stages, image, (5, 5, 5)))
    assert np.unique(labels).tolist() == [0, 1, 2]  # the ball at 20 lies in two tiles, under 100 voxels in each
    assert np.array_equal(labels > 0, (image > 500) & (np.arange(40) > 8))


def test_voxels_without_data_or_outside_the_mask_belong_to_no_object(tmp_path: Path) -> None:
    image = balls((9, 10, 24), [(4, 5, 5), (4, 5, 18)], 3)
    image[4, 5, 4:6] = 2000
    mask = np.ones(image.shape, np.uint8)
    mask[:, :, 16:] = 0
    write_volume(tmp_path / "mask.ome.zarr", mask, (0.3, 0.2, 0.1))
    stages = [labels_by("blobs", tile=(9, 10, 12), halo=4)]
    labels = labels_of(run(tmp_path, stages, image, nodata=2000, mask=str(tmp_path / "mask.ome.zarr")))
    assert np.array_equal(labels > 0, (image == 1000) & (mask > 0))


def test_the_function_is_told_its_options_and_the_size_of_a_voxel_if_it_asks(tmp_path: Path) -> None:
    image = np.ones((4, 5, 6), np.uint16)
    with pytest.raises(ConfigError, match="unknown"):
        planned(tmp_path, [labels_by("sizes", options={"unknown": 1})], image)
    given = labels_by("sizes", options={"factor": 2})
    step = planned(tmp_path, [given], image).pass_named("apply").draft.steps[0]
    assert dict(step.options) == {"voxel_um": (0.3, 0.2, 0.1), "factor": 2}  # type: ignore[attr-defined]
    assert (labels_of(run(tmp_path, [given], image)) == 1).all()


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        ("segmenters", ConfigError, "names no function"),
        ("no_such_module:blobs", ModelError, "no_such_module cannot be imported for no_such_module:blobs"),
        ("segmenters:blob", ModelError, "segmenters has no blob.*'blobs'"),
        ("segmenters:NUMBER", ModelError, "segmenters:NUMBER is int, not a function"),
    ],
)
def test_a_function_that_is_not_there_is_refused_while_planning(
    tmp_path: Path, function: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        planned(tmp_path, [cf.Apply(function=function, output="labels", halo=16)], np.ones((4, 5, 6), np.uint16))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("floating", "segmenters:floating gave float64, not labels"),
        ("boolean", "segmenters:boolean gave bool, not labels"),
        ("negative", "segmenters:negative gave the negative label -1"),
        ("flat", r"segmenters:flat gave \(5, 6\) values for \(4, 5, 6\) voxels"),
    ],
)
def test_what_is_no_segmentation_stops_the_run(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        run(tmp_path, [labels_by(name)], np.ones((4, 5, 6), np.uint16))


def test_a_function_that_fails_is_named_with_its_tile(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="segmenters:broken failed on 0:4,0:5,0:6: ZeroDivisionError: no cells"):
        run(tmp_path, [labels_by("broken")], np.ones((4, 5, 6), np.uint16))


def test_another_version_of_the_function_is_another_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, stages = np.ones((4, 5, 6), np.uint16), [labels_by("blobs")]
    plan = planned(tmp_path, stages, image)
    pipeline, before = plan.pipeline, plan.fingerprints("cpu")["apply"]
    assert pipeline.plan(plan.input, tmp_path / "out", block=plan.block).fingerprints("cpu")["apply"] == before
    monkeypatch.setattr(functions, "_identity", lambda module: "segmenters 2.0")
    again = pipeline.plan(plan.input, tmp_path / "out", block=plan.block)
    assert again.fingerprints("cpu")["apply"] != before
    monkeypatch.setattr(functions, "_identity", lambda module: "segmenters 3.0")
    functions._loaded.cache_clear()
    with pytest.raises(ModelError, match=r"belongs to segmenters 3.0 here, and to segmenters 2.0 in the plan"):
        again.run(on="serial")


def test_functions_are_known_by_their_distribution_or_by_their_file() -> None:
    import scipy

    assert functions.find_function("scipy.ndimage:label", "apply").identity == f"scipy {scipy.__version__}"
    assert functions.find_function("segmenters:blobs", "apply").identity.startswith("sha256 ")


def test_an_image_of_tiles_is_that_of_the_whole_volume_if_the_halo_holds_what_the_function_looks_at(
    tmp_path: Path,
) -> None:
    image = random_volume("image", (13, 23, 37), np.random.default_rng(1))
    size = (3, 5, 7)
    truth = ndimage.median_filter(image, size).astype(np.float32)
    for tile, block in ((9, (64, 64, 64)), ((5, 23, 10), (4, 9, 16))):
        stage = image_by("median", options={"size": list(size)}, tile=tile, halo=(1, 2, 3))
        assert np.array_equal(image_of(run(tmp_path, [stage], image, block)), truth)
    short = image_by("median", options={"size": list(size)}, tile=9, halo=(1, 2, 2))
    assert not np.array_equal(image_of(run(tmp_path, [short], image)), truth)


def test_an_image_of_tiles_does_not_depend_on_blocks(tmp_path: Path) -> None:
    stages = [image_by("local", tile=(9, 12, 10), halo=2), cf.Threshold(), cf.Label(), cf.Measure()]
    check_stage(stages, folder=tmp_path, cases=1, grids=2, largest=(16, 30, 30), options={"nodata": 420})


def test_what_follows_looks_at_the_image_that_the_function_made(tmp_path: Path) -> None:
    image = random_volume("image", (12, 15, 17), np.random.default_rng(2))
    stages = [image_by("above", tile=8, halo=0), cf.Threshold(method="fixed", value=0.5), cf.Label()]
    result = run(tmp_path, stages, image, (5, 15, 9))
    assert np.array_equal(image_of(result), (image > 400).astype(np.float32))
    assert np.array_equal(labels_of(result), ndimage.label(image > 400, np.ones((3, 3, 3)))[0])


def test_the_image_behind_a_resampling_is_the_one_that_is_kept(tmp_path: Path) -> None:
    image = random_volume("image", (7, 12, 17), np.random.default_rng(3))
    coarse = cf.Resample(voxel_um=(0.3, 0.3, 0.3))
    before = image_of(run(tmp_path, [coarse], image))
    result = run(tmp_path, [coarse, image_by("above", halo=0)], image)
    assert np.array_equal(image_of(result), (before > 400).astype(np.float32))
    group = json.loads((result.path / "image.ome.zarr" / "zarr.json").read_text())
    window = group["attributes"]["ome"]["omero"]["channels"][0]["window"]
    assert (window["start"], window["end"]) == (0, 1)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("complicated", ModelError, "segmenters:complicated gave complex128, not an image. Return real numbers"),
        ("ragged", ModelError, "segmenters:ragged gave object, not an image"),
        ("flat", ModelError, r"segmenters:flat gave \(5, 6\) values for \(4, 5, 6\) voxels"),
        ("holed", IncompleteError, "segmenters:holed gave 1 voxels of NaN, infinity or beyond float32 in 0:4,0:5,0:6"),
        ("tall", IncompleteError, "segmenters:tall gave 120 voxels of NaN, infinity or beyond float32"),
        ("broken", IncompleteError, "segmenters:broken failed on 0:4,0:5,0:6: ZeroDivisionError: no cells"),
    ],
)
def test_what_is_no_image_stops_the_run(tmp_path: Path, name: str, error: type[Exception], words: str) -> None:
    image = np.full((4, 5, 6), 3, np.uint16)
    image[1, 2, 3] = 9
    with pytest.raises(error, match=words):
        run(tmp_path, [image_by(name, halo=1)], image)


@pytest.mark.parametrize(
    ("halo_um", "voxels"), [(0.6, (2, 3, 6)), ([0.61, 0.2, 0.0], (3, 1, 0)), (2.1, (7, 11, 21)), (0, (0, 0, 0))]
)
def test_a_halo_in_um_is_rounded_up_to_voxels(tmp_path: Path, halo_um: Any, voxels: Triple) -> None:
    plan = planned(tmp_path, [image_by("above", tile=3, halo_um=halo_um)], np.ones((10, 11, 12), np.uint16))
    assert plan.pass_named("apply").halo == voxels
    whole = planned(tmp_path, [image_by("above", halo_um=halo_um)], np.ones((10, 11, 12), np.uint16))
    assert whole.pass_named("apply").halo == (0, 0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_every_voxel_has_one_place_in_the_view_of_its_tile_and_of_all_that_see_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, core = (triple(rng.integers(low, high, 3).tolist()) for low, high in ((5, 20), (3, 9)))
    lattice = Lattice(shape, core, (2, 1, 3))
    volume = rng.integers(1, 1 << 30, shape)
    views = np.zeros(lattice.views.shape, np.int64)
    assert len(lattice.views) == len(lattice.tiles)
    for tile in range(len(lattice.tiles)):
        seen = lattice.seen(tile)
        place = lattice.place(tile, seen)
        assert lattice.views.core_of(tile).contains(place)
        assert lattice.tile_of_view(place) == tile
        views[place.slices] = volume[seen.slices]
    start = triple([int(rng.integers(0, n)) for n in shape])
    box = Box(start, triple([int(rng.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True)]))
    again = np.zeros(shape, np.int64)
    for tile, part in lattice.meeting(box):
        assert not again[part.slices].any()
        again[part.slices] = views[lattice.place(tile, part).slices]
    assert np.array_equal(again[box.slices], volume[box.slices])
    assert np.count_nonzero(again) == box.size


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for values, words in (
        ({"tile": 0}, "tile 0 is not positive"),
        ({"halo": -1}, "halo -1 is negative"),
        ({"halo": None, "halo_um": (1.0, 2.0, -0.5)}, r"halo_um \(1.0, 2.0, -0.5\) is negative"),
        ({"halo": None}, "neither halo nor halo_um is given"),
        ({"halo_um": 0.5}, "halo and halo_um are both given"),
        ({"overlap": 1.0}, "overlap 1.0 is not a share"),
        ({"min_voxels": 3, "min_volume_um3": 1.0}, "both given"),
        ({"options": 3}, "options is 3"),
    ):
        with pytest.raises(ConfigError, match=words):
            labels_by("blobs", **values)
    with pytest.raises(ConfigError, match="apply and label both number objects"):
        cf.Pipeline([labels_by("blobs"), cf.Label()])
    with pytest.raises(ConfigError, match="an image has no objects of a minimum size"):
        image_by("above", halo=0, min_voxels=4)
    with pytest.raises(ConfigError, match="stage apply stands behind threshold"):
        cf.Pipeline([cf.Threshold(), image_by("above", halo=0)])
    image = np.ones((4, 5, 6), np.uint16)
    with pytest.raises(ConfigError, match="leaves nothing along y that two tiles both see"):
        planned(tmp_path, [labels_by("blobs", tile=4, halo=(0, 0, 1))], image)
    with pytest.raises(ConfigError, match="threshold behind objects: nothing would look at it"):
        planned(tmp_path, [labels_by("blobs"), cf.Threshold()], image)
    with pytest.raises(ConfigError, match="the input is mask"):
        planned(tmp_path, [labels_by("blobs")], image, kind="mask")


def test_a_pipeline_file_names_function_and_options() -> None:
    stage = {
        "function": "cells:find",
        "output": "labels",
        "options": {"diameter": 30, "net": "nuclei"},
        "tile": [32, 128, 128],
        "halo": 20,
    }
    (read,) = cf.Pipeline.from_dict(
        {"version": 1, "stages": [{"apply": stage}]}, overrides=["apply.options.net=b"]
    ).stages
    assert read == cf.Apply(
        function="cells:find", output="labels", options={"diameter": 30, "net": "b"}, tile=(32, 128, 128), halo=20
    )


def test_measures_and_skeletons_follow_objects_of_tiles(tmp_path: Path) -> None:
    image = balls((12, 14, 40), [(5, 6, 6), (5, 6, 20), (5, 6, 33)], 3.2)
    stages = [labels_by("blobs", tile=(12, 14, 20), halo=8), cf.Measure()]
    result = run(tmp_path, stages, image, (12, 14, 13))
    assert len(result.objects) == 3
    assert not differences(result, run(tmp_path, stages, image))


def test_the_pipelines_of_the_documentation_are_read() -> None:
    text = (Path(__file__).parents[2] / "docs" / "instances.md").read_text(encoding="utf-8")
    snippets = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    stages = [cf.Pipeline.from_dict(yaml.safe_load(snippet)).stages for snippet in snippets]
    assert [type(stage) for stage in stages[-2]] == [cf.Apply, cf.Measure]
    assert [type(stage) for stage in stages[-1]] == [cf.Apply, cf.Threshold, cf.Label, cf.Measure]
    assert len(stages) == 6
