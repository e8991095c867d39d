import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

from chunkflow.errors import InputError, InputNotFoundError, IntegrityError, PlanError, UsageError
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.storage.inventory import missing_chunks
from chunkflow.storage.volume import (
    ArrayLayout,
    Volume,
    create_array,
    object_sizes,
    objects_of,
    open_array,
    open_store,
)

UNIT = Scale((0.2, 0.1, 0.1))
SHAPE = (21, 37, 45)
LAYOUTS = {
    "sharded": ArrayLayout(SHAPE, "uint16", (8, 8, 8), (16, 24, 16)),
    "chunked": ArrayLayout(SHAPE, "uint16", (16, 24, 16), None),
    "0.4": ArrayLayout(SHAPE, "uint16", (16, 24, 16), None, 2),
}


@pytest.fixture(params=LAYOUTS)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Volume:
    return create_array(tmp_path / "a", LAYOUTS[request.param], UNIT)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5000, shape).astype(np.uint16)


def file_boxes(volume: Volume) -> list[Box]:
    unit = volume.layout.write_unit
    grid = np.ndindex(*(-(-n // u) for n, u in zip(volume.shape, unit, strict=True)))
    starts = [tuple(i * u for i, u in zip(index, unit, strict=True)) for index in grid]
    return [Box(s, tuple(a + u for a, u in zip(s, unit, strict=True))).clip(volume.box) for s in starts]


def test_what_was_written_block_by_block_is_read_in_any_box(volume: Volume) -> None:
    truth = noise(SHAPE)
    for box in reversed(file_boxes(volume)):
        volume.write(box, truth[box.slices])
    again = open_array(volume.path, UNIT, read_only=True)
    rng = np.random.default_rng(1)
    for _ in range(20):
        ends = np.sort(np.stack([rng.integers(0, n + 1, 2) for n in SHAPE], 1), 0)
        box = Box(tuple(map(int, ends[0])), tuple(map(int, ends[1])))
        np.testing.assert_array_equal(again.read(box), truth[box.slices])
    assert again.read(again.box).dtype == np.uint16


def test_indexing_equals_numpy(volume: Volume) -> None:
    truth = noise(SHAPE)
    volume.write(volume.box, truth)
    for key in (3, -1, ..., (slice(2, 9), ..., 4), (..., slice(-5, None)), (1, 2, 3), (slice(9, 2),)):
        np.testing.assert_array_equal(volume[key], truth[key])
    for bad in (99, (slice(0, 9, 2),), (0, 0, 0, 0)):
        with pytest.raises(IndexError):
            volume[bad]


def test_an_all_zero_block_leaves_its_files_after_any_opening(volume: Volume) -> None:
    reopened = pickle.loads(pickle.dumps(open_array(volume.path, UNIT)))
    box = file_boxes(reopened)[-1]
    reopened.write(box, np.zeros(box.shape, np.uint16))
    names = objects_of(volume.layout, box)
    assert len(names) == 1
    (size,) = object_sizes(volume.path, names)
    assert size
    assert missing_chunks(volume) == len(file_boxes(volume)) - 1


def test_the_files_named_are_the_files_written(volume: Volume) -> None:
    boxes = file_boxes(volume)
    for box in boxes:
        volume.write(box, noise(box.shape))
    named = {name for box in boxes for name in objects_of(volume.layout, box)}
    metadata = {"zarr.json", ".zarray", ".zattrs"}
    found = {str(f.relative_to(volume.path)) for f in Path(volume.path).rglob("*") if f.is_file()}
    assert found - metadata == named == set(objects_of(volume.layout, volume.box))
    assert missing_chunks(volume) == 0


def test_an_empty_file_counts_as_missing(volume: Volume) -> None:
    volume.write(volume.box, noise(SHAPE))
    Path(volume.path, objects_of(volume.layout, volume.box)[0]).write_bytes(b"")
    assert missing_chunks(volume) == 1


def test_every_flipped_byte_and_every_cut_is_noticed(volume: Volume) -> None:
    box = file_boxes(volume)[0]
    volume.write(box, noise(box.shape))
    file = Path(volume.path, objects_of(volume.layout, box)[0])
    good = file.read_bytes()
    rng = np.random.default_rng(2)
    damaged = [good[: int(n)] for n in rng.integers(1, len(good), 10)]
    for position in (*rng.integers(0, len(good), 60), len(good) - 1, 0):
        flipped = bytearray(good)
        flipped[position] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(IntegrityError, match=r"cannot be read"):
            volume.read(box)


def test_writing_again_over_damage_leaves_the_bytes_of_a_clean_write(volume: Volume) -> None:
    data = noise(SHAPE)
    volume.write(volume.box, data)
    files = [Path(volume.path, name) for name in objects_of(volume.layout, volume.box)]
    clean = [file.read_bytes() for file in files]
    for file, content in zip(files, clean, strict=True):
        file.write_bytes(content[:-3] + b"abc")
    volume.write(volume.box, data)
    assert [file.read_bytes() for file in files] == clean
    volume.write(volume.box, data)
    assert [file.read_bytes() for file in files] == clean


def test_a_write_that_does_not_fit_is_refused_and_writes_nothing(volume: Volume) -> None:
    z, y, x = SHAPE
    overhang = Box((16, 24, 32), (32, 48, 48))
    cut = Box((0, 0, 0), (z, y, x - 1))
    for box, shape, dtype in (
        (overhang, overhang.shape, "uint16"),
        (cut, cut.shape, "uint16"),
        (volume.box, (z, y, x + 1), "uint16"),
        (volume.box, SHAPE, "uint8"),
    ):
        with pytest.raises(PlanError):
            volume.write(box, np.ones(shape, dtype))
    assert missing_chunks(volume) == len(file_boxes(volume))


def test_reading_outside_is_refused(volume: Volume) -> None:
    for box in (Box((-1, 0, 0), (2, 2, 2)), Box((0, 0, 0), (22, 2, 2))):
        with pytest.raises(InputError, match=r"reaches outside the volume of shape \(21, 37, 45\)"):
            volume.read(box)


def test_a_volume_opened_for_reading_cannot_be_written(volume: Volume) -> None:
    locked = pickle.loads(pickle.dumps(open_array(volume.path, UNIT, read_only=True)))
    with pytest.raises(PlanError, match="read-only"):
        locked.write(locked.box, noise(SHAPE))
    assert missing_chunks(volume) == len(file_boxes(volume))


def test_a_volume_travels_as_a_few_hundred_bytes(volume: Volume) -> None:
    assert len(pickle.dumps(volume)) < 500 + len(volume.path)


def test_creating_twice_keeps_what_is_there_and_another_layout_is_refused(volume: Volume) -> None:
    volume.write(volume.box, noise(SHAPE))
    again = create_array(volume.path, volume.layout, UNIT)
    np.testing.assert_array_equal(again[...], noise(SHAPE))
    other = ArrayLayout(SHAPE, "uint8", (16, 24, 16), None, volume.layout.zarr_format)
    with pytest.raises(UsageError, match=r"holds an array of another layout"):
        create_array(volume.path, other, UNIT)


def create_many(path: str) -> None:
    for i in range(20):
        create_array(f"{path}/{i}", LAYOUTS["sharded"], UNIT)


def test_processes_that_create_one_array_at_once_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=create_many, args=(str(tmp_path),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len({(tmp_path / str(i) / "zarr.json").read_bytes() for i in range(20)}) == 1


def test_other_axes_are_views_of_one_array(tmp_path: Path) -> None:
    layout = ArrayLayout((5, 6, 7), "float32", (8, 8, 8), (8, 8, 8), leading=(2, 3))
    first = create_array(tmp_path / "a", layout, UNIT, axes="tczyx")
    truth = np.random.default_rng(0).random((2, 3, 5, 6, 7), np.float32)
    for t, c in np.ndindex(2, 3):
        part = open_array(first.path, UNIT, axes="tczyx", at=(t, c))
        assert missing_chunks(part) == 1
        part.write(part.box, truth[t, c])
        assert missing_chunks(part) == 0
        assert object_sizes(part.path, objects_of(layout, part.box, (t, c))) != [None]
    np.testing.assert_array_equal(first.array[:], truth)
    turned = open_array(first.path, UNIT, axes="tcxyz", at=(1, 2))
    assert turned.shape == (7, 6, 5)
    np.testing.assert_array_equal(turned[...], truth[1, 2].T)


def test_a_file_that_spans_channels_is_not_written(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(2, 8, 8, 8), chunks=(2, 8, 8, 8), dtype="uint8")
    part = open_array(tmp_path / "a", UNIT, axes="czyx", at=(0,))
    with pytest.raises(PlanError, match=r"spans 2 positions along c"):
        part.write(part.box, np.ones((8, 8, 8), np.uint8))


def test_a_plane_is_a_volume_of_one(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(6, 7), chunks=(4, 4), dtype=">u2", zarr_format=2)
    array[:] = noise((6, 7))
    plane = open_array(tmp_path / "a", UNIT, axes="yx")
    assert plane.shape == (1, 6, 7)
    assert plane[...].dtype == np.dtype("=u2")
    np.testing.assert_array_equal(plane[0], noise((6, 7)))
    plane.write(plane.box, noise((1, 6, 7), 3))
    np.testing.assert_array_equal(plane[0], noise((1, 6, 7), 3)[0])


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"is not a zarr array"):
        open_array(tmp_path / "nothing", UNIT)
    with pytest.raises(InputError, match=r"is of a kind that cannot be opened"):
        open_store("az://container/a.zarr")
    zarr.create_array(tmp_path / "five", shape=(2,) * 5, dtype="uint8")
    with pytest.raises(InputError, match=r"has 5 axes and 3 are named \(zyx\)"):
        open_array(tmp_path / "five", UNIT)
    with pytest.raises(InputError, match=r"has 5 axes and none are named"):
        open_array(tmp_path / "five", UNIT, axes=None)
    zarr.create_array(tmp_path / "waves", shape=(2, 2, 2), dtype="complex64")
    with pytest.raises(InputError, match=r"holds values of type complex64"):
        open_array(tmp_path / "waves", UNIT)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "array"')
    with pytest.raises(InputError, match=r"cannot be opened as a zarr array"):
        open_array(tmp_path / "torn", UNIT)
