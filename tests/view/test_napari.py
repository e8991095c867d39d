"""napari on the result of a run: layers without a display, and a viewer, its canvas and a click under xvfb."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.testing import suites

pytest.importorskip("napari", reason="napari is not installed")

SESSION = Path(__file__).with_name("napari_session.py")


def child(*arguments: str, code: str | None = None) -> str:
    """What a process of its own prints: napari raises warnings of its own on import."""
    program = [sys.executable, *(["-c", code] if code else []), *arguments]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=240, env=dict(os.environ))
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def test_the_manifest_names_a_reader_and_a_widget_that_are_there() -> None:
    found = [point.value for point in entry_points(group="napari.manifest") if point.name == "chunkflow-engine"]
    if not found:
        pytest.skip("chunkflow was installed before it had a plugin: install it again")
    assert found == ["chunkflow:napari.yaml"]
    code = (
        "import npe2, json; m = npe2.PluginManifest.from_distribution('chunkflow-engine');"
        "print(json.dumps([m.display_name, [c.python_name for c in m.contributions.commands],"
        " m.contributions.readers[0].accepts_directories, m.contributions.widgets[0].display_name]))"
    )
    name, commands, directories, widget = json.loads(child(code=code))
    assert (name, directories, widget) == ("chunkflow", True, "Object rows")
    assert commands == ["chunkflow.view.plugin:napari_get_reader", "chunkflow.view.rows:ObjectRows"]


def test_the_reader_takes_results_and_leaves_images_to_others(results: dict[str, cf.Result], tmp_path: Path) -> None:
    from chunkflow.view.plugin import napari_get_reader

    out = results["0.5"].path
    assert napari_get_reader(str(out)) is not None
    assert napari_get_reader(str(out / "image.ome.zarr")) is None
    assert napari_get_reader(str(tmp_path)) is None
    assert napari_get_reader([str(out), str(out)]) is None


@pytest.mark.thorough
@pytest.mark.viewer
@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="xvfb is not installed")
@pytest.mark.parametrize("format", ["0.4", "0.5"])
def test_napari_shows_image_labels_skeleton_and_the_row_of_what_is_clicked(
    results: dict[str, cf.Result], tmp_path: Path, format: str
) -> None:
    pytest.importorskip("qtpy", reason="qtpy is not installed")
    result = results[format]
    screen = ["xvfb-run", "-a", "-s", "-screen 0 1400x900x24", sys.executable, str(SESSION)]
    picture = tmp_path / "napari.png"
    ended = subprocess.run([*screen, str(result.path), str(picture)], capture_output=True, text=True, timeout=240)
    if "xcb" in ended.stderr and ended.returncode:
        pytest.skip("Qt lacks libraries of X: apt-get install libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1")
    assert ended.returncode == 0, ended.stderr[-3000:]
    facts = json.loads(ended.stdout.splitlines()[-1])
    assert facts["layers"] == {
        "image": "Image",
        "objects": "Labels",
        "skeleton": "Labels",
        "skeleton lines": "Vectors",
        "nodes": "Points",
    }
    assert facts["equal"] == {"image": True, "objects": True}
    assert set(map(tuple, facts["scale"].values())) == {(0.2, 0.08, 0.08)}
    assert facts["units"] == ["micrometer"]
    assert facts["levels"] == {name: [[24, 230, 262], [24, 115, 131]] for name in ("image", "objects")}
    row = result.objects.set_index("object_id", drop=False).loc[facts["label"]]
    assert facts["title"] == f"objects {facts['label']}"
    assert list(facts["row"]) == list(result.objects.columns)
    assert facts["row"]["volume_vox"] == str(row.volume_vox)
    assert float(facts["row"]["volume_um3"]) == pytest.approx(row.volume_um3, rel=1e-5)
    assert facts["node_row"]["kind"] == result.nodes.kind[0]
    assert facts["emptied"] == 0
    assert facts["nodes"] == len(result.nodes)
    assert facts["length_um"] == pytest.approx(facts["length_of_curves_um"])
    assert facts["nothing"] == 0
    assert min(facts["pixels"].values()) > 50  # each of them is seen on the canvas
    assert picture.stat().st_size > 20_000
    low, high = facts["contrast"]
    image = np.asarray(result.image[...])
    assert image.min() <= low < high < image.max()


LAYERS = """
import json, sys
from napari.layers import Layer
from chunkflow.view.layers import result_layers
made = [Layer.create(data, keywords, kind) for data, keywords, kind in result_layers(sys.argv[1])]
print(json.dumps([[layer.name, layer.ndim, len(layer.data)] for layer in made]))
"""


@pytest.mark.parametrize("is_empty", [False, True], ids=["a rod", "nothing"])
@pytest.mark.parametrize("planes", [1, 9])
def test_napari_takes_small_results_and_those_without_objects(planes: int, is_empty: bool, tmp_path: Path) -> None:
    """Small ones have one level and no pyramid: of that, napari wants the array."""
    image = np.zeros((planes, 19, 33), np.uint16)
    image[planes // 2, 8:11, 3:30] = 0 if is_empty else 100
    suites.write_volume(tmp_path / "in.ome.zarr", image)
    stages = [cf.Threshold(method="fixed", value=50.0), cf.Label(), cf.Skeleton(), cf.Measure()]
    result = cf.Pipeline(stages).plan(tmp_path / "in.ome.zarr", tmp_path / "out").run(on="serial", device="cpu")
    found = {name: (ndim, count) for name, ndim, count in json.loads(child(str(result.path), code=LAYERS))}
    assert found["image"] == found["objects"] == found["skeleton"] == (3, planes)
    assert found["nodes"] == (3, len(result.nodes)) and (found["nodes"][1] == 0) == is_empty
    assert found["skeleton lines"][0] == 3 and (found["skeleton lines"][1] == 0) == is_empty
