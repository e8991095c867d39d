"""Meshes of label images on disk: the same bytes for any blocks, closed, in the frame of the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from chunkflow.errors import UsageError
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.scale import Scale
from chunkflow.run.export_mesh import export_meshes
from chunkflow.storage import meshes
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.volume import Volume, create_array

SCALE = Scale((0.3, 0.11, 0.1), (2.0, -1.0, 5.0))


def volume(folder: Path, labels: np.ndarray) -> Volume:
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    made = create_array(folder / "0", layout_for_core((32, 32, 32), shape, labels.dtype), SCALE)
    made.write(made.box, labels)
    return made


def blobs(shape: Triple = (37, 45, 53)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 2)
    labels = ndimage.label(noise > np.quantile(noise, 0.6))[0].astype(np.uint32)
    labels[5:9, 5:9, 5:9] = 2**31 + 5
    labels[5:9, 5:9, 9:12] = 78
    return labels


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    head, _, body = path.read_bytes().partition(b"end_header\n")
    counts = [int(line.split()[-1]) for line in head.decode().splitlines() if line.startswith("element")]
    xyz = np.frombuffer(body, "<f4", 3 * counts[0]).reshape(-1, 3)
    return xyz, np.frombuffer(body, np.dtype([("n", "u1"), ("v", "<i4", 3)]), counts[1], xyz.nbytes)["v"]


def test_meshes_are_the_same_bytes_for_any_blocks(tmp_path: Path) -> None:
    labels = volume(tmp_path, blobs())
    facts = export_meshes(labels, tmp_path / "whole")
    assert {mesh.object_id for mesh in facts} == set(np.unique(blobs())) - {0}
    for number, block in enumerate([(7, 11, 13), (1, 60, 60), (20, 9, 54), (38, 46, 1)]):
        folder = tmp_path / f"blocks{number}"
        assert export_meshes(labels, folder, block=block) == facts
        assert content(folder) == content(tmp_path / "whole")


def test_every_mesh_is_closed_and_holds_the_volume_of_its_voxels(tmp_path: Path) -> None:
    data = blobs()
    facts = export_meshes(volume(tmp_path, data), tmp_path / "m", block=(9, 10, 11))
    for mesh in facts:
        xyz, faces = read_ply(tmp_path / "m" / f"{mesh.object_id}.ply")
        edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        _, counts = np.unique(np.sort(edges, axis=1), axis=0, return_counts=True)
        assert (counts == 2).all() and len(np.unique(edges, axis=0)) == len(edges)
        assert len(xyz) == mesh.vertices == faces.max() + 1
        assert mesh.volume_um3 == pytest.approx((data == mesh.object_id).sum() * 0.3 * 0.11 * 0.1, rel=1e-4)


def test_plain_marching_cubes_lie_half_way(tmp_path: Path) -> None:
    data = np.zeros((5, 6, 7), np.uint8)
    data[2, 3, 4] = 1
    (voxel,) = export_meshes(volume(tmp_path, data), tmp_path / "m", surface="halfway")
    assert voxel.volume_um3 == pytest.approx(0.3 * 0.11 * 0.1 / 6, rel=1e-4)


def test_a_mesh_whose_pieces_wait_in_files_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = volume(tmp_path, blobs())
    export_meshes(labels, tmp_path / "memory", block=(10, 20, 30))
    monkeypatch.setattr(meshes, "HELD_BYTES", 0)
    export_meshes(labels, tmp_path / "files", block=(10, 20, 30))
    assert content(tmp_path / "files") == content(tmp_path / "memory")


def test_a_mesh_lies_where_viewers_show_its_voxels(tmp_path: Path) -> None:
    data = np.zeros((20, 21, 22), np.uint8)
    data[4:11, 6:16, 3:15] = 1
    export_meshes(volume(tmp_path, data), tmp_path / "m")
    xyz, _ = read_ply(tmp_path / "m" / "1.ply")
    low = np.array([5 + 2.5 * 0.1, -1 + 5.5 * 0.11, 2 + 3.5 * 0.3])
    high = np.array([5 + 14.5 * 0.1, -1 + 15.5 * 0.11, 2 + 10.5 * 0.3])
    fifth = 0.2 * np.array(SCALE.voxel_um[::-1])
    assert (np.abs(xyz.min(axis=0) - low) < fifth).all() and (np.abs(xyz.max(axis=0) - high) < fifth).all()
    near = (np.abs(xyz[:, 0] - (low + high)[0] / 2) < 0.3) & (np.abs(xyz[:, 1] - (low + high)[1] / 2) < 0.2)
    np.testing.assert_allclose(np.unique(xyz[near][:, 2].round(4)), [low[2], high[2]], atol=1e-3)


def test_a_region_closes_what_it_cuts_and_stays_in_its_place(tmp_path: Path) -> None:
    data = blobs()
    labels, region = volume(tmp_path, data), Box((3, 8, 11), (29, 40, 41))
    export_meshes(labels, tmp_path / "part", region=region, block=(10, 10, 10))
    alone = np.zeros_like(data)
    alone[region.slices] = data[region.slices]
    export_meshes(volume(tmp_path / "alone", alone), tmp_path / "cut")
    assert {name: len(bytes_) for name, bytes_ in content(tmp_path / "part").items()} == {
        name: len(bytes_) for name, bytes_ in content(tmp_path / "cut").items()
    }
    for path in (tmp_path / "part").iterdir():
        np.testing.assert_allclose(read_ply(path)[0], read_ply(tmp_path / "cut" / path.name)[0], atol=1e-5)
        np.testing.assert_array_equal(read_ply(path)[1], read_ply(tmp_path / "cut" / path.name)[1])


def test_only_the_objects_that_are_wanted_are_written(tmp_path: Path) -> None:
    labels = volume(tmp_path, blobs())
    export_meshes(labels, tmp_path / "all")
    export_meshes(labels, tmp_path / "two", objects=[78, 2**31 + 5])
    whole = content(tmp_path / "all")
    assert content(tmp_path / "two") == {name: whole[name] for name in ("78.ply", "2147483653.ply")}
    with pytest.raises(UsageError, match="has no object 4711 in the region"):
        export_meshes(labels, tmp_path / "none", objects=[78, 4711])


def test_an_image_of_floats_has_no_objects(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds float32, not labels"):
        export_meshes(volume(tmp_path, np.ones((4, 5, 6), np.float32)), tmp_path / "m")
