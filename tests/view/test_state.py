"""What there is to look at, and the state of Neuroglancer that shows it. No browser."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import InputError, InputNotFoundError, UsageError
from chunkflow.testing import suites
from chunkflow.view import state as states
from chunkflow.view.neuroglancer import link, write_state
from chunkflow.view.scene import open_scene
from chunkflow.view.state import Look, neuroglancer_state

BASE = "https://example.org/out"


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def result(request: pytest.FixtureRequest, results: dict[str, cf.Result]) -> cf.Result:
    return results[request.param]


def layers_of(result: cf.Result, look: Look | None = None) -> dict[str, dict]:
    return {layer["name"]: layer for layer in neuroglancer_state(open_scene(result.path), BASE, look)["layers"]}


def test_a_scene_has_shape_scale_and_layers_of_the_result(result: cf.Result) -> None:
    scene = open_scene(result.path)
    assert scene.shape == result.image.shape
    assert scene.scale == result.image.volume.scale
    assert scene.levels == 2
    assert [(layer.name, layer.is_labels, layer.is_visible) for layer in scene.layers] == [
        ("image", False, True),
        ("objects", True, True),
        ("skeleton", True, False),
    ]


def test_units_are_voxels_and_the_place_is_a_voxel_of_the_array(result: cf.Result) -> None:
    state = neuroglancer_state(open_scene(result.path), BASE, Look(at=(5, 60, 70)))
    assert state["dimensions"] == {"x": [8e-8, "m"], "y": [8e-8, "m"], "z": [pytest.approx(2e-7), "m"]}
    assert state["position"] == pytest.approx([70, 60, 5 + 3.0 / 0.2])  # the volume begins at z = 3 um


def test_contrast_is_that_of_the_metadata_and_narrower_than_the_range(result: cf.Result) -> None:
    contrast = layers_of(result)["image"]["shaderControls"]["contrast"]
    image = result.image[...]
    assert contrast["window"] == [int(image.min()), int(image.max())]
    low, high = contrast["range"]
    assert contrast["window"][0] <= low < high < contrast["window"][1]
    assert 0.9 < np.mean((image >= low) & (image <= high)) < 1


def test_objects_and_their_skeletons_share_a_layer_so_that_they_share_colours(result: cf.Result) -> None:
    layer = layers_of(result)["objects"]
    assert layer["source"] == [
        f"zarr://{BASE}/image.ome.zarr/labels/objects/",
        f"precomputed://{BASE}/graph/precomputed",
    ]
    sizes = result.objects.set_index("object_id").volume_vox
    shown = [int(segment) for segment in layer["segments"]]
    assert set(shown) == set(result.nodes.object_id)
    assert sizes[shown].is_monotonic_decreasing


def test_nodes_lie_where_the_table_says_and_know_their_object(result: cf.Result) -> None:
    layer = layers_of(result)["nodes"]
    points = layer["annotations"]
    nodes = result.nodes.set_index("node_id")
    assert len(points) == len(nodes) > 20
    for point in points:
        row = nodes.loc[int(point["id"])]
        at_um = np.array(point["point"]) * [0.08, 0.08, 0.2]
        np.testing.assert_allclose(at_um, [row.x_um, row.y_um, row.z_um], atol=2e-4)
        assert point["segments"] == [[str(row.object_id)]]
        assert states.KINDS[point["props"][2]] == row.kind


def test_many_nodes_are_named_by_their_url(result: cf.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "NODES", 10)
    layer = layers_of(result)["nodes"]
    assert layer["source"] == f"precomputed://{BASE}/graph/nodes"
    assert "annotations" not in layer


def test_an_image_alone_is_shown_with_its_labels(tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "a.ome.zarr", np.zeros((3, 4, 5), np.uint8), (0.5, 0.1, 0.1))
    state = neuroglancer_state(open_scene(tmp_path / "a.ome.zarr"), BASE)
    assert [(layer["name"], layer["source"]) for layer in state["layers"]] == [("image", f"zarr://{BASE}/")]


def test_a_state_goes_through_a_link_and_names_no_path_of_this_machine(result: cf.Result, tmp_path: Path) -> None:
    shown = write_state(tmp_path / "s.json", result.path, url_base=BASE)
    state = json.loads((tmp_path / "s.json").read_text())
    assert json.loads(unquote(shown.partition("#!")[2])) == state
    assert str(result.path) not in shown
    assert link({"a": "b_c d"}).endswith("#!%7B%22a%22:%22b_c%20d%22%7D")


def test_neuroglancer_reads_the_link_as_the_same_state(result: cf.Result, tmp_path: Path) -> None:
    package = pytest.importorskip("neuroglancer", reason="neuroglancer is not installed")
    shown = write_state(tmp_path / "s.json", result.path, url_base=BASE)
    state = package.parse_url(shown)
    assert [layer.name for layer in state.layers] == ["image", "objects", "skeleton", "nodes"]
    assert state.layers["objects"].segments == set(result.nodes.object_id)


def test_what_cannot_be_shown_is_named(result: cf.Result, tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="is not a folder"):
        open_scene(tmp_path / "nothing")
    with pytest.raises(InputError, match="no image and no labels"):
        open_scene(tmp_path)
    with pytest.raises(InputError, match="a kind that cannot be opened"):
        open_scene("ftp://host/out")
    with pytest.raises(UsageError, match="voxel 0 0 262 is outside the volume of 24 230 262"):
        neuroglancer_state(open_scene(result.path), BASE, Look(at=(0, 0, 262)))
    with pytest.raises(UsageError, match="layout 'five' is not known"):
        Look(layout="five")
    with pytest.raises(UsageError, match="--url-base"):
        write_state(tmp_path / "s.json", result.path)
