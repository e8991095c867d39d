"""Results in buckets: what Neuroglancer and napari get through this machine is what the arrays hold."""

from __future__ import annotations

import io
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

import chunkflow as cf
from chunkflow.errors import InputError, UsageError
from chunkflow.report.viewer_picture import check_report, put_picture
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.stores import ObjectPath, place_of
from chunkflow.testing import suites
from chunkflow.testing.object_store import ENVIRONMENT, make_bucket, s3_server
from chunkflow.view.browser import NAMES
from chunkflow.view.neuroglancer import camera, screenshot, showing
from chunkflow.view.scene import open_scene
from chunkflow.view.state import dimensions

pytestmark = [pytest.mark.thorough, pytest.mark.viewer]
pytest.importorskip("neuroglancer", reason="neuroglancer is not installed")
browser = pytest.mark.skipif(not any(map(shutil.which, NAMES)), reason="Chromium is not installed")

RAW = "void main() { uint v = toRaw(getDataValue()); emitRGB(vec3(v & 255u, v >> 8u, 0) / 255.0); }"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("moto", reason="moto[server] is not installed")
    with s3_server() as address:
        yield address


@pytest.fixture(params=["0.4", "0.5"])
def stored(
    request: pytest.FixtureRequest, server: str, results: dict[str, cf.Result], monkeypatch: pytest.MonkeyPatch
) -> tuple[cf.Result, ObjectPath]:
    """A result, and its copy in a bucket that asks for credentials."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex}"
    make_bucket(server, bucket)
    place = place_of(f"s3://{bucket}/lab/out")
    result = results[request.param]
    assert isinstance(place, ObjectPath) and isinstance(result.path, Path)
    for path in result.path.rglob("*"):
        if path.is_file():
            (place / path.relative_to(result.path).as_posix()).upload(path)
    return result, place


def png_of(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def get(url: str, **headers: str) -> bytes:
    with urlopen(Request(url, headers=headers), timeout=20) as answer:
        content: bytes = answer.read()
        return content


def test_a_scene_of_a_bucket_is_that_of_the_folder(stored: tuple[cf.Result, ObjectPath]) -> None:
    result, place = stored
    here, there = open_scene(result.path), open_scene(str(place))
    assert there.place == place and there.name == "out"
    assert (there.shape, there.scale, there.layers, there.levels) == (here.shape, here.scale, here.layers, here.levels)
    assert there.has_skeletons and there.has_annotations
    assert there.nodes.equals(here.nodes) and there.largest_objects.tolist() == here.largest_objects.tolist()


def test_every_byte_that_a_viewer_asks_for_is_the_folders(stored: tuple[cf.Result, ObjectPath]) -> None:
    result, place = stored
    shown_files = [path for path in Path(result.path).rglob("*") if path.is_file()]
    names = [path.relative_to(result.path).as_posix() for path in shown_files]
    with showing(str(place)) as shown:
        for name, path in zip(names, shown_files, strict=True):
            if name.startswith("run/"):
                with pytest.raises(HTTPError, match="404"):
                    get(f"{shown.base}/{name}")
                continue
            content = path.read_bytes()
            assert get(f"{shown.base}/{name}") == content, name
            if len(content) > 40:
                assert get(f"{shown.base}/{name}", Range="bytes=7-30") == content[7:31]
                assert get(f"{shown.base}/{name}", Range="bytes=-16") == content[-16:]
        with pytest.raises(HTTPError, match="404"):
            get(f"{shown.base}/image.ome.zarr/0/nothing")
        assert "s3:" not in json.dumps(shown.viewer.state.to_json())  # the browser asks nobody else


@browser
def test_a_browser_shows_the_arrays_and_the_picture_of_the_folder(stored: tuple[cf.Result, ObjectPath]) -> None:
    result, place = stored
    here, there = (
        np.asarray(Image.open(io.BytesIO(screenshot(at, size=(600, 450)))).convert("RGB"))
        for at in (str(result.path), str(place))
    )
    assert np.mean((here != there).any(axis=2)) < 1e-4  # lines that cross are drawn in the order they arrive
    with showing(str(place)) as shown:
        for level in (0, 1):
            image = open_volume(Path(result.path) / "image.ome.zarr", level=level)
            rows, columns = image.shape[1:]
            layer = {"type": "image", "name": "i", "source": f"zarr://{shown.base}/image.ome.zarr/", "shader": RAW}
            middle = [2**level * columns / 2 - 0.5, 2**level * rows / 2 - 0.5, 12 + 3.0 / 0.2]
            state: dict[str, Any] = {
                "showAxisLines": False,
                "showScaleBar": False,
                "showDefaultAnnotations": False,
                "layout": "xy",
                "dimensions": dimensions(shown.scene.scale),
                "position": middle,
                "crossSectionScale": 2**level,
                "crossSectionBackgroundColor": "#000000",
                "layers": [{**layer, "opacity": 1}],
            }
            shown.show(state)
            with camera(shown, size=(columns, rows)) as taken:
                pixels = np.asarray(Image.open(io.BytesIO(taken.picture())).convert("RGB")).astype(int)
            np.testing.assert_array_equal(pixels[..., 0] + 256 * pixels[..., 1], image[12])


def napari_layers(place: ObjectPath | str) -> dict[str, Any]:
    pytest.importorskip("napari", reason="napari is not installed")
    from chunkflow.view.plugin import napari_get_reader

    reader = napari_get_reader(str(place))
    assert reader is not None
    return {keywords["name"]: (data, keywords, kind) for data, keywords, kind in reader(str(place))}


def test_napari_gets_arrays_and_tables_of_a_copy_in_a_bucket_and_on_a_server(
    stored: tuple[cf.Result, ObjectPath],
) -> None:
    from chunkflow.view.plugin import napari_get_reader

    result, place = stored
    assert napari_get_reader(f"{place}/nothing") is None
    with showing(result.path) as shown:
        with pytest.raises(UsageError, match="cannot be written to"):
            check_report(shown.base)
        of_server = napari_layers(shown.base)
        np.testing.assert_array_equal(np.asarray(of_server["objects"][0][0]), result.labels[...])
    layers = napari_layers(place)
    assert list(layers) == list(of_server) == ["image", "objects", "skeleton", "nodes"]
    for name, expected in {"image": result.image, "objects": result.labels}.items():
        levels, _, _ = layers[name]
        assert len(levels) == 2
        np.testing.assert_array_equal(np.asarray(levels[0]), expected[...])
    assert len(layers["nodes"][0]) == len(result.nodes)
    assert layers["objects"][1]["features"]["object_id"].dropna().tolist() == result.objects.object_id.tolist()


@pytest.mark.filterwarnings("ignore")  # napari raises warnings of its own on import
def test_napari_gets_the_skeleton_of_a_run_that_wrote_into_a_bucket_and_its_report_a_picture(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    make_bucket(server, "written-there")
    ring = np.hypot(*np.mgrid[-14:15, -15:18])
    image = np.zeros((9, *ring.shape), np.uint8)
    image[3:6, (ring > 6) & (ring < 10)] = 100
    suites.write_volume(tmp_path / "in.ome.zarr", image, (0.3, 0.1, 0.1))
    pipeline = cf.Pipeline([cf.Threshold(method="fixed", value=50), cf.Label(), cf.Skeleton(), cf.Measure()])
    result = pipeline.plan(tmp_path / "in.ome.zarr", "s3://written-there/out").run(on="serial", device="cpu")
    layers = napari_layers("s3://written-there/out")
    assert list(layers) == ["image", "objects", "skeleton", "skeleton lines", "nodes"]
    steps = layers["skeleton lines"][0][:, 1] * (0.3, 0.1, 0.1)
    lengths = [
        np.linalg.norm(np.diff(data["points"], axis=0), axis=1).sum() for *_, data in result.graph.edges(data=True)
    ]
    put_picture("s3://written-there/out", png_of(7, 5))
    page = (result.path / "report.html").read_bytes().decode()
    assert "Seen in Neuroglancer" in page and "width: 7px" in page
    assert len(lengths) and np.linalg.norm(steps, axis=1).sum() == pytest.approx(sum(lengths))


def test_a_bucket_without_a_result_is_said(stored: tuple[cf.Result, ObjectPath]) -> None:
    with pytest.raises(InputError, match="holds no image and no labels to show"):
        open_scene(f"{stored[1]}/graph")
