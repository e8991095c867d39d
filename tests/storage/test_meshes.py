"""Mesh files read back by the formats' own words, and pieces that waited in files or in memory."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from chunkflow.errors import UsageError
from chunkflow.storage import meshes
from chunkflow.storage.meshes import MeshFormat, MeshWriter

# a tetrahedron with a right angle at the origin: volume 1 / 6 of its sides
CORNERS = np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 0, 5]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = path.read_bytes()
    head, _, body = content.partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "comment unit micrometer" in lines
    counts = {words[1]: int(words[2]) for words in (line.split() for line in lines) if words[0] == "element"}
    assert [line.split()[-1] for line in lines if line.startswith("property")] == ["x", "y", "z", "vertex_indices"]
    kind = "<f8" if "property double x" in lines else "<f4"
    xyz = np.frombuffer(body, kind, 3 * counts["vertex"]).reshape(-1, 3)
    faces = np.frombuffer(body, np.dtype([("n", "u1"), ("v", "<i4", 3)]), counts["face"], xyz.nbytes)
    assert len(body) == xyz.nbytes + faces.nbytes and (faces["n"] == 3).all()
    return xyz, faces["v"]


def write(folder: Path, format: MeshFormat = "ply", shift: float = 0.0) -> list[meshes.MeshFacts]:
    with MeshWriter(folder, format) as writer:
        writer.add(7, CORNERS[:3] + np.float32(shift), FACES[:0])
        writer.add(2**40, CORNERS, FACES)
        assert writer.vertices_of(7) == 3 and writer.vertices_of(8) == 0
        writer.add(7, CORNERS[3:] + np.float32(shift), FACES)
        return writer.finish()


@pytest.mark.parametrize("held", [1 << 28, 0])
def test_pieces_become_one_mesh_wherever_they_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(meshes, "HELD_BYTES", held)
    facts = write(tmp_path / "m")
    assert [(mesh.object_id, mesh.vertices, mesh.triangles) for mesh in facts] == [(7, 4, 4), (2**40, 4, 4)]
    assert facts[0].volume_um3 == pytest.approx(5.0)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1099511627776.ply", "7.ply"]
    xyz, faces = read_ply(tmp_path / "m" / "7.ply")
    np.testing.assert_array_equal(xyz, CORNERS)
    np.testing.assert_array_equal(faces, FACES)


def test_a_volume_far_from_the_origin_is_not_lost_in_rounding(tmp_path: Path) -> None:
    assert write(tmp_path, shift=4096.0)[0].volume_um3 == pytest.approx(5.0, rel=1e-6)


@pytest.mark.parametrize(
    ("origin", "kind"), [(0.0, np.float32), (500.0, np.float32), (1e5, np.float64), (1e6, np.float64)]
)
def test_vertices_are_stored_as_finely_as_the_place_of_the_stage_asks(
    tmp_path: Path, origin: float, kind: type
) -> None:
    shifted = CORNERS.astype(np.float64) * 0.1 + origin
    with MeshWriter(tmp_path, "ply") as writer:
        writer.add(1, shifted, FACES)
        writer.finish()
    xyz, faces = read_ply(tmp_path / "1.ply")
    assert xyz.dtype == kind
    a, b, c = (xyz[faces[:, k]].astype(np.float64) - xyz[0] for k in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6 == pytest.approx(0.005, rel=2e-3)


def test_stl_holds_every_triangle_with_its_outward_normal(tmp_path: Path) -> None:
    write(tmp_path, "stl")
    content = (tmp_path / "7.stl").read_bytes()
    assert struct.unpack("<I", content[80:84]) == (4,)
    records = np.frombuffer(content[84:], np.dtype([("n", "<f4", 3), ("c", "<f4", (3, 3)), ("a", "<u2")]))
    np.testing.assert_array_equal(records["c"], CORNERS[FACES])
    np.testing.assert_allclose(records["n"][:3], [[0, 0, -1], [0, -1, 0], [-1, 0, 0]], atol=1e-6)
    assert not content.startswith(b"solid")  # or readers take it for text


def test_precomputed_fragments_are_in_nanometers_and_listed(tmp_path: Path) -> None:
    write(tmp_path, "precomputed")
    assert json.loads((tmp_path / "info").read_text()) == {"@type": "neuroglancer_legacy_mesh"}
    (name,) = json.loads((tmp_path / "7:0").read_text())["fragments"]
    content = (tmp_path / name).read_bytes()
    assert struct.unpack("<I", content[:4]) == (4,)
    np.testing.assert_array_equal(np.frombuffer(content, "<f4", 12, 4).reshape(4, 3), CORNERS * 1000)
    np.testing.assert_array_equal(np.frombuffer(content, "<u4", 12, 52).reshape(4, 3), FACES)


def test_a_writer_that_is_given_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meshes, "HELD_BYTES", 0)
    monkeypatch.setattr(meshes, "_MOST_VERTICES", 5)
    with MeshWriter(tmp_path) as writer:
        writer.add(1, CORNERS, FACES)
        with pytest.raises(UsageError):
            writer.add(1, CORNERS, FACES)
    assert list(tmp_path.iterdir()) == []


def test_what_no_file_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meshes, "_MOST_VERTICES", 4)
    with MeshWriter(tmp_path) as writer, pytest.raises(UsageError, match="object 3 has more than 4 vertices"):
        writer.add(3, CORNERS, FACES)
    with pytest.raises(UsageError, match="Choose one of ply, stl, precomputed"):
        MeshWriter(tmp_path, "obj")  # type: ignore[arg-type]
