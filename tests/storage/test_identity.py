import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chunkflow.geometry.scale import Scale
from chunkflow.storage import identity as module
from chunkflow.storage.identity import differences, identity
from chunkflow.storage.volume import ArrayLayout, Volume, create_array, open_array

UNIT = Scale((0.2, 0.1, 0.1))


@pytest.fixture(params=[3, 2])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Volume:
    layout = ArrayLayout((10, 10, 10), "uint8", (5, 5, 5), None, request.param)
    volume = create_array(tmp_path / "a", layout, UNIT)
    volume.write(volume.box, np.ones((10, 10, 10), np.uint8))
    return volume


def chunk(volume: Volume, name: str) -> tuple[Path, str]:
    full = f"c/{name}" if volume.layout.zarr_format == 3 else name
    return Path(volume.path, full), full


def test_an_untouched_volume_has_one_identity_that_survives_json(volume: Volume) -> None:
    first = json.loads(json.dumps(identity(volume)))
    (Path(volume.path) / ".DS_Store").write_bytes(b"")
    assert differences(first, identity(open_array(volume.path, UNIT))) == []


def test_each_change_is_named(volume: Volume) -> None:
    before = identity(volume)
    file, name = chunk(volume, "0/1/0")
    os.utime(file, ns=(0, 1))
    assert differences(before, identity(volume)) == [f"chunk {name} was rewritten"]
    file.unlink()
    assert differences(before, identity(volume)) == [f"chunk {name} was removed"]
    assert differences(identity(volume), before) == [f"chunk {name} was added"]


def test_another_meaning_of_the_same_files_is_a_difference(volume: Volume) -> None:
    other = replace(volume, scale=Scale((0.3, 0.1, 0.1)))
    assert differences(identity(volume), identity(other)) == ["voxel size (um) 0.2x0.1x0.1 -> 0.3x0.1x0.1"]


def test_another_shape_is_named_with_both(tmp_path: Path) -> None:
    volumes = [create_array(tmp_path / str(n), ArrayLayout((n, 9, 9), "uint8", (8, 8, 8), None), UNIT) for n in (9, 12)]
    found = differences(*map(identity, volumes))
    assert found[0] == "shape 9x9x9 -> 12x9x9"


def test_many_files_share_digests_and_a_change_names_their_folder(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_GROUPS", 4)
    before = identity(volume)
    assert len(before["groups"]) == 4
    file, name = chunk(volume, "1/0/1")
    folder = name.rsplit("/", 1)[0]
    os.utime(file, ns=(0, 1))
    assert differences(before, identity(volume)) == [f"chunks under {folder} were rewritten"]
    file.unlink()
    assert differences(before, identity(volume)) == [f"1 chunks under {folder} instead of 2"]


def test_a_long_list_of_changes_is_cut(volume: Volume) -> None:
    before = identity(volume)
    for file in Path(volume.path).rglob("[01]"):
        if file.is_file():
            os.utime(file, ns=(0, 1))
    found = differences(before, identity(volume))
    assert len(found) == 6
    assert found[-1] == "and 3 more"
