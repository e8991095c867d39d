"""OME-Zarr 0.4 for the readers of others: metadata by the letter of zarr 2, checksums all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

import chunkflow as cf
from chunkflow.errors import IntegrityError
from chunkflow.geometry.scale import Scale
from chunkflow.storage.volume import ArrayLayout, Volume, create_array, open_array, restore_metadata

UNIT = Scale((0.2, 0.1, 0.1))
SHAPE = (21, 37, 45)
LAYOUT = ArrayLayout(SHAPE, "uint16", (16, 24, 16), None, 2)
MEMBERS = {"zarr_format", "shape", "chunks", "dtype", "compressor", "fill_value", "order", "filters"}
"""What the specification asks for; `dimension_separator` may stand beside."""
HAS_CHECKSUM = 0b100
"""In the byte after the magic number of a zstd frame (RFC 8878, 3.1.1.1.1)."""


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5000, SHAPE).astype(np.uint16)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    made = create_array(tmp_path / "a", LAYOUT, UNIT)
    made.write(made.box, noise())
    return made


def metadata(folder: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, ".zarray").read_text())
    return found


def chunks(volume: Volume) -> list[Path]:
    return sorted(path for path in Path(volume.path).rglob("*") if path.is_file() and path.name.isdigit())


def test_the_metadata_have_no_member_that_the_specification_does_not_know(volume: Volume) -> None:
    told = metadata(volume.path)
    assert told.keys() - {"dimension_separator"} == MEMBERS
    assert told["compressor"] == {"id": "zstd", "level": LAYOUT.level}


def test_any_zstd_of_numcodecs_decodes_a_chunk(volume: Volume) -> None:
    codec = numcodecs.get_codec(metadata(volume.path)["compressor"])
    found = np.frombuffer(codec.decode(Path(volume.path, "0", "1", "2").read_bytes()), "<u2").reshape(16, 24, 16)
    np.testing.assert_array_equal(found[:, :13, :13], noise()[:16, 24:, 32:])


@pytest.mark.parametrize("reopened", [False, True])
def test_every_frame_has_a_checksum_and_a_flipped_bit_is_found(volume: Volume, reopened: bool) -> None:
    if reopened:  # by what the metadata say, as a worker does
        volume = open_array(volume.path, UNIT)
        volume.write(volume.box, noise())
    files = chunks(volume)
    assert len(files) == 12
    assert all(file.read_bytes()[4] & HAS_CHECKSUM for file in files)
    whole, rng = files[3].read_bytes(), np.random.default_rng(1)
    for _ in range(50):
        broken = bytearray(whole)
        broken[int(rng.integers(len(whole) // 4, len(whole)))] ^= 1 << int(rng.integers(8))
        files[3].write_bytes(broken)
        with pytest.raises(IntegrityError):
            open_array(volume.path, UNIT, read_only=True).read(volume.box)


def test_chunks_are_those_that_zarr_writes_with_checksums(volume: Volume, tmp_path: Path) -> None:
    codec = {"id": "zstd", "level": LAYOUT.level, "checksum": True}
    encoding: Any = {"name": "v2", "separator": "/"}
    kind: dict[str, Any] = {
        "shape": SHAPE,
        "chunks": LAYOUT.chunk,
        "dtype": "uint16",
        "fill_value": 0,
        "compressors": codec,
    }
    other = zarr.create_array(tmp_path / "b", zarr_format=2, chunk_key_encoding=encoding, **kind)
    other[...] = noise()
    for file in chunks(volume):
        assert (tmp_path / "b" / file.relative_to(volume.path)).read_bytes() == file.read_bytes()


def test_metadata_of_an_earlier_version_are_opened_and_then_written_anew(volume: Volume) -> None:
    file = Path(volume.path, ".zarray")
    good = file.read_bytes()
    told = metadata(volume.path)
    told["compressor"]["checksum"] = True
    file.write_text(json.dumps(told))
    np.testing.assert_array_equal(open_array(volume.path, UNIT).read(volume.box), noise())
    restore_metadata(volume.path, LAYOUT)
    assert file.read_bytes() == good


def test_tensorstore_opens_every_array_of_a_result_in_0_4(tiny_volume: Path, tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
    options = cf.OutputOptions(save=("image", "mask", "labels"), format="0.4")
    plan = cf.Pipeline([cf.Threshold(), cf.Label()], output=options).plan(
        tiny_volume, tmp_path / "out", block=(24, 24, 24)
    )
    plan.run(on="serial")
    arrays = [file.parent for file in (tmp_path / "out" / "image.ome.zarr").rglob(".zarray")]
    assert len(arrays) >= 3
    for array in arrays:
        kept = {"driver": "file", "path": str(array)}
        found = tensorstore.open({"driver": "zarr", "kvstore": kept}, read=True).result().read().result()
        expected = np.asarray(zarr.open_array(array, mode="r")[...])
        np.testing.assert_array_equal(found, expected)
        assert expected.any()
