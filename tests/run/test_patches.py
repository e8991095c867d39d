"""Samples are cut where they should be, from exactly the right voxels, and no faster for being in memory."""

import numpy as np
import pytest

from chunkflow.errors import InputError
from chunkflow.geometry.box import Box
from chunkflow.models.augment import Augment, Blur, Elastic, generator
from chunkflow.models.targets import Target
from chunkflow.models.usage import Normalization
from chunkflow.run.block_cache import BlockCache
from chunkflow.run.foreground import find_foreground
from chunkflow.run.normalising import Scaling, scaling_of
from chunkflow.run.patches import Region, SampledPatches

SHAPE = (23, 150, 141)


@pytest.fixture(scope="module")
def voxels():
    rng = np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.uint16)
    labels[5:9, 100:110, 20:30] = 1
    labels[20:23, 140:150, 130:141] = 2
    labels[0, 0, 0] = 3
    return rng.integers(0, 4000, SHAPE).astype(np.uint16), labels


@pytest.fixture(scope="module")
def volumes(voxels, write_volume, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    image, labels = voxels
    return write_volume(folder / "image.ome.zarr", image), write_volume(folder / "labels.ome.zarr", labels)


def patches(
    volumes, box=None, *, share=0.0, target=None, patch=(8, 16, 16), augment=None, cache=2**28, seed=0, beyond=0.0
):
    image, labels = volumes
    region = Region(images=(image,), labels=labels, box=box or labels.box, scalings=(Scaling(),))
    target = target or Target()
    return SampledPatches(
        regions=(region,),
        foreground=find_foreground([(labels, region.box)], target) if share else None,
        share=share,
        target=target,
        patch=patch,
        augment=augment or Augment.none(),
        seed=seed,
        cache=BlockCache(cache),
        beyond=beyond,
    )


def test_a_box_is_read_whatever_fits_into_the_memory(volumes, voxels):
    rng = np.random.default_rng(1)
    for limit in (0, 10**5, 2**28):
        cache = BlockCache(limit)
        for _ in range(6):
            start = [int(rng.integers(0, n - 4)) for n in SHAPE]
            stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, SHAPE, strict=True)]
            box = Box(tuple(start), tuple(stop))
            np.testing.assert_array_equal(cache.read(volumes[0], box), voxels[0][box.slices])


def test_beyond_a_region_its_voxels_are_mirrored(volumes, voxels):
    region = Box((3, 20, 30), (9, 60, 62))
    inner = voxels[0][region.slices]
    for margin in ((2, 3, 4), (5, 30, 20), (11, 5, 70)):
        expected = np.pad(inner, [(m, m) for m in margin], mode="reflect")
        found = BlockCache(2**28).read_mirrored(volumes[0], region.grow(margin), region)
        np.testing.assert_array_equal(found, expected)
    low = Box((1, 11, 26), (4, 23, 33))
    expected = np.pad(inner, [(20, 0)] * 3, mode="reflect")
    place = Box(*(tuple(v - a + 20 for v, a in zip(p, region.start, strict=True)) for p in (low.start, low.stop)))
    np.testing.assert_array_equal(BlockCache(2**28).read_mirrored(volumes[0], low, region), expected[place.slices])
    high = Box((7, 50, 55), (14, 70, 80))
    expected = np.pad(inner, [(0, 20)] * 3, mode="reflect")[high.relative_to(region.start).slices]
    np.testing.assert_array_equal(BlockCache(2**28).read_mirrored(volumes[0], high, region), expected)


def test_a_sample_without_augmentation_is_a_box_of_the_volume(volumes, voxels):
    found = patches(volumes)
    for number in range(20):
        image, target, weight = found.sample(number)
        assert image.shape == target.shape == weight.shape == (1, 8, 16, 16)
        windows = np.lib.stride_tricks.sliding_window_view(voxels[0], (8, 16, 16))
        place = np.argwhere(windows[..., 0, 0, 0] == image[0, 0, 0, 0])
        matches = [p for p in place if np.array_equal(windows[tuple(p)], image[0])]
        assert len(matches) == 1
        z, y, x = matches[0]
        np.testing.assert_array_equal(target[0], voxels[1][z : z + 8, y : y + 16, x : x + 16] > 0)
        assert weight.all()


def test_samples_are_the_same_in_any_order_and_with_any_memory(volumes):
    usual = patches(volumes, share=0.5, augment=Augment(), target=Target(kind="distance", clip_um=3.0))
    starved = patches(volumes, share=0.5, augment=Augment(), target=Target(kind="distance", clip_um=3.0), cache=0)
    forwards = [usual.sample(number) for number in range(12)]
    backwards = [starved.sample(number) for number in reversed(range(12))]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    other_seed = patches(volumes, share=0.5, augment=Augment(), seed=1)
    assert any((other_seed.sample(n)[0] != forwards[n][0]).any() for n in range(12))


def test_patches_near_objects_hold_one_and_each_voxel_of_it_is_as_likely(volumes):
    found = patches(volumes, share=1.0)
    assert all(found.sample(number)[1].any() for number in range(40))
    index = find_foreground([(volumes[1], volumes[1].box)], Target())
    picked = [index.pick(generator(0, n, "place"))[1].start for n in range(400)]
    sizes = {1: 400, 2: 330, 3: 1}
    share = np.mean([start[1] >= 128 for start in picked])
    assert share == pytest.approx(sizes[2] / sum(sizes.values()), abs=0.07)


def test_rare_classes_are_seen_as_often_as_common_ones(volumes):
    target = Target(kind="classes", classes=4)
    found = patches(volumes, share=1.0, target=target)
    seen = [set(np.unique(found.sample(number)[1])) for number in range(90)]
    for k in (1, 2, 3):
        assert np.mean([k in classes for classes in seen]) == pytest.approx(1 / 3, abs=0.12)


def test_every_voxel_of_a_class_is_picked_by_one_number(volumes, voxels):
    class Counting:
        """Draws the first class, and then the numbers from 0 on."""

        def __init__(self):
            self.total, self.next = None, 0

        def choice(self, classes):
            return classes[0]

        def integers(self, total):
            self.total, number = total, self.next
            self.next += 1
            return number

    index, numbers, found = find_foreground([(volumes[1], volumes[1].box)], Target()), Counting(), set()
    while numbers.total is None or numbers.next < numbers.total:
        _, cell, _, which = index.pick(numbers)
        inner = np.flatnonzero(voxels[1][cell.slices])[which]
        found.add(tuple(np.add(np.unravel_index(inner, cell.shape), cell.start).tolist()))
    assert found == set(map(tuple, np.argwhere(voxels[1]).tolist()))


def test_the_index_counts_every_voxel_of_every_class(volumes, voxels):
    target = Target(kind="classes", classes=4)
    region = Box((1, 7, 9), SHAPE)
    index = find_foreground([(volumes[1], region)], target)
    counts = np.bincount(voxels[1][region.slices].ravel(), minlength=4)[1:]
    np.testing.assert_array_equal(index.counts.sum(axis=0), counts)
    for k, (start, stop) in enumerate(zip(index.start, index.stop, strict=True)):
        inside = voxels[1][tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        np.testing.assert_array_equal(np.bincount(inside.ravel(), minlength=4)[1:], index.counts[k])


def test_nothing_outside_a_region_is_ever_seen(volumes, voxels):
    """What is kept for validation could be anything: patches, bent and with margins, would be the same."""
    region = Box((0, 0, 0), (23, 90, 141))
    allowed = set(np.unique(voxels[0][region.slices]).tolist())
    augment = Augment(elastic=None, blur=None, intensity=None, noise=None)
    found = patches(volumes, region, target=Target(kind="distance", clip_um=4.0), augment=augment)
    for number in range(20):
        assert set(np.unique(found.sample(number)[0]).astype(int).tolist()) <= allowed


def test_bent_and_blurred_patches_see_nothing_outside_a_region_either(write_volume, tmp_path):
    labels = write_volume(tmp_path / "labels.ome.zarr", np.ones((20, 40, 40), np.uint8))
    values = np.full((20, 40, 40), 60_000, np.uint16)
    region = Box((2, 5, 5), (18, 30, 30))
    values[region.slices] = 100
    image = write_volume(tmp_path / "image.ome.zarr", values)
    augment = Augment(elastic=Elastic(probability=1.0), blur=Blur(probability=1.0), intensity=None, noise=None)
    found = patches((image, labels), region, augment=augment)
    for number in range(20):
        np.testing.assert_allclose(found.sample(number)[0], 100, rtol=1e-4)


def test_a_region_smaller_than_the_patch_counts_only_where_it_is(volumes):
    region = Box((4, 100, 20), (10, 112, 30))
    image, _, weight = patches(volumes, region, patch=(8, 16, 16)).sample(0)
    assert image.shape == (1, 8, 16, 16)
    assert weight.sum() == region.size


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_percentiles_are_those_of_the_whole_volume(write_volume, tmp_path, dtype):
    values = np.random.default_rng(0).gamma(2.0, 300.0, (21, 140, 133)).astype(dtype)
    volume = write_volume(tmp_path / "image.ome.zarr", values)
    found = scaling_of(volume, Normalization(kind="percentiles", percentiles=(2.0, 99.0)))
    low, high = np.percentile(values, [2.0, 99.0], method="inverted_cdf")
    bin_width = 0.0 if dtype is np.uint16 else float(np.ptp(values)) / 65536
    assert found.offset == pytest.approx(low, abs=bin_width)
    assert found.offset + found.scale == pytest.approx(high, abs=bin_width)
    moments = scaling_of(volume, Normalization(kind="mean-sd"))
    assert moments.offset == pytest.approx(values.mean(dtype=float), rel=1e-4)
    assert moments.scale == pytest.approx(values.std(dtype=float), rel=1e-4)


def test_asinh_keeps_0_and_1():
    scaling = Scaling(offset=100.0, scale=50.0, asinh=3.0)
    np.testing.assert_allclose(scaling.apply(np.array([100.0, 150.0])), [0, 1], atol=1e-6)
    assert scaling.dark == -2


def test_a_volume_of_one_value_or_with_nan_cannot_be_normalised(write_volume, tmp_path):
    flat = write_volume(tmp_path / "flat.ome.zarr", np.full((4, 5, 6), 7, np.uint8))
    with pytest.raises(InputError, match="cannot be normalised"):
        scaling_of(flat, Normalization(kind="percentiles"))
    broken = write_volume(tmp_path / "nan.ome.zarr", np.full((4, 5, 6), np.nan, np.float32))
    with pytest.raises(InputError, match="NaN"):
        scaling_of(broken, Normalization(kind="percentiles"))


@pytest.mark.parametrize("kind", ["none", "linear", "mean-sd"])
def test_a_voxel_that_is_no_number_is_refused_by_every_normalisation(write_volume, tmp_path, kind):
    values = np.ones((4, 5, 6), np.float32)
    values[2, 3, 4] = np.nan
    with pytest.raises(InputError, match=r"nan\.ome\.zarr.* holds NaN"):
        scaling_of(write_volume(tmp_path / "nan.ome.zarr", values), Normalization(kind=kind))


@pytest.mark.parametrize("wrong", [3, -1])
def test_a_label_beyond_the_classes_is_named_with_its_volume(write_volume, tmp_path, wrong):
    labels = np.zeros((4, 5, 6), np.int16)
    labels[1, 2, 3], labels[0, 0, 0] = wrong, 9
    volume = write_volume(tmp_path / "classes.ome.zarr", labels)
    with pytest.raises(InputError, match=rf"classes\.ome\.zarr.* holds label {wrong}, .* 3 classes"):
        find_foreground([(volume, volume.box)], Target(kind="classes", classes=3, ignore=9))


def test_a_patch_beyond_the_faces_shows_mirrored_voxels_that_count_for_nothing(volumes, voxels):
    """Like numpy's "reflect"; half a patch beyond at most, and never all of it."""
    margin = (4, 8, 8)
    wide = np.pad(voxels[0], [(m, m) for m in margin], "reflect").astype(np.float32)
    inside = np.pad(np.ones(SHAPE, bool), [(m, m) for m in margin])
    source = patches(volumes, beyond=0.5)
    outside = 0
    for number in range(60):
        image, _, weight = source.sample(number)
        _, start = source._place(generator(0, number, "place"))
        assert all(-m <= s <= n + m - p for s, m, n, p in zip(start, margin, SHAPE, (8, 16, 16), strict=True))
        box = tuple(slice(s + m, s + m + p) for s, m, p in zip(start, margin, (8, 16, 16), strict=True))
        np.testing.assert_array_equal(image[0], wide[box])
        np.testing.assert_array_equal(weight[0] > 0, inside[box])
        outside += not inside[box].all()
    assert outside > 5
