"""What Neuroglancer shows in a real browser, pixel by pixel: the arrays, and the skeletons."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import chunkflow as cf
from chunkflow.storage.omezarr import open_volume
from chunkflow.view.browser import NAMES
from chunkflow.view.neuroglancer import Camera, Shown, camera, showing
from chunkflow.view.state import dimensions

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.viewer,
    pytest.mark.skipif(not any(map(shutil.which, NAMES)), reason="Chromium is not installed"),
]
pytest.importorskip("neuroglancer", reason="neuroglancer is not installed")

SHAPE, VOXEL_UM = (24, 230, 262), (0.2, 0.08, 0.08)  # as in conftest: y and x of both levels are even and odd
FIRST_Z = 3.0 / 0.2  # the volume begins at 3 um
SLICES = 12
PLAIN = {"showAxisLines": False, "showScaleBar": False, "showDefaultAnnotations": False, "layout": "xy"}
RAW_IMAGE = "void main() { uint v = toRaw(getDataValue()); emitRGB(vec3(v & 255u, v >> 8u, 0) / 255.0); }"
RAW_LABELS = "void main() { emitRGB(vec3(0, 0, toRaw(getDataValue())) / 255.0); }"


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def shown(request: pytest.FixtureRequest, results: dict[str, cf.Result]) -> Iterator[Shown]:
    with showing(results[request.param].path) as shown:
        yield shown


@pytest.fixture
def taken(shown: Shown) -> Iterator[Callable[[dict[str, Any], tuple[int, int]], NDArray[np.uint8]]]:
    """(state, rows and columns) -> the pixels, one browser for all pictures of a size."""
    cameras: dict[tuple[int, int], Camera] = {}
    opened: list[Any] = []

    def take(state: dict[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
        if size not in cameras:
            while opened:
                opened.pop().__exit__(None, None, None)
            cameras.clear()
            opened.append(camera(shown, size=(size[1], size[0])))
            cameras[size] = opened[-1].__enter__()
        shown.show(state)
        return np.asarray(Image.open(io.BytesIO(cameras[size].picture())).convert("RGB"))

    yield take
    while opened:
        opened.pop().__exit__(None, None, None)


def middle(shape: tuple[int, int, int], factor: int, z: int) -> list[float]:
    """x, y, z of the middle of a level, in voxels of the finest, so that a pixel is a voxel of that level."""
    x, y = (factor * shape[axis] / 2 - 0.5 for axis in (2, 1))
    return [x, y, z + FIRST_Z]


@pytest.mark.parametrize("level", [0, 1])
def test_image_and_labels_are_the_arrays_pixel_by_pixel(shown: Shown, taken: Any, level: int) -> None:
    folder = shown.scene.place
    image, labels = (
        open_volume(folder / name, level=level) for name in ("image.ome.zarr", "image.ome.zarr/labels/objects")
    )
    assert labels[...].max() < 256
    sources = {layer.name: f"zarr://{shown.base}/{layer.path}/" for layer in shown.scene.layers}
    layers = [
        {"type": "image", "name": "i", "source": sources["image"], "shader": RAW_IMAGE, "opacity": 1},
        {
            "type": "image",
            "name": "l",
            "source": sources["objects"],
            "shader": RAW_LABELS,
            "opacity": 1,
            "blend": "additive",
        },
    ]
    shades = 0
    for z in np.linspace(0, SHAPE[0] - 1, SLICES).astype(int).tolist():
        state = {
            **PLAIN,
            "dimensions": dimensions(shown.scene.scale),
            "position": middle(image.shape, 2**level, z),
            "crossSectionScale": 2**level,
            "crossSectionBackgroundColor": "#000000",
            "layers": layers,
        }
        pixels = taken(state, image.shape[1:])
        expected_image, expected_labels = image[z], labels[z]
        np.testing.assert_array_equal(pixels[..., 0] + 256 * pixels[..., 1].astype(int), expected_image)
        np.testing.assert_array_equal(pixels[..., 2], expected_labels)
        shades += len(np.unique(expected_labels))
    assert shades > 2 * SLICES  # objects were seen


def test_the_volumes_are_those_that_are_meant(results: dict[str, cf.Result]) -> None:
    for format, result in results.items():
        for volume in (result.image, result.labels):
            assert volume is not None
            sharded = volume.array.shards is not None and volume.array.shards != volume.array.chunks
            assert sharded == (format == "0.5")
        levels = [open_volume(result.path / "image.ome.zarr", level=k).shape for k in (0, 1)]
        assert levels == [SHAPE, (SHAPE[0], 115, 131)]


def test_objects_have_their_colours_where_they_lie(shown: Shown, taken: Any) -> None:
    labels = open_volume(shown.scene.place / "image.ome.zarr/labels/objects")[...]
    ids = np.unique(labels)[1:].tolist()
    z = int(np.argmax((labels > 0).sum(axis=(1, 2))))
    layer = {
        "type": "segmentation",
        "name": "objects",
        "source": f"zarr://{shown.base}/image.ome.zarr/labels/objects/",
        "selectedAlpha": 1,
        "notSelectedAlpha": 1,
        "saturation": 1,
        "segmentColors": {str(label): f"#{label:02x}{255 - label:02x}80" for label in ids},
    }
    state = {
        **PLAIN,
        "dimensions": dimensions(shown.scene.scale),
        "position": middle(SHAPE, 1, z),
        "crossSectionScale": 1,
        "crossSectionBackgroundColor": "#000000",
        "layers": [layer],
    }
    pixels = taken(state, SHAPE[1:])
    found = labels[z] > 0
    np.testing.assert_array_equal(pixels[..., 0], labels[z])
    np.testing.assert_array_equal(pixels[..., 1], np.where(found, 255 - labels[z].astype(int), 0))


def test_skeletons_are_lit_where_the_graph_is_and_nowhere_else(
    shown: Shown, taken: Any, results: dict[str, cf.Result]
) -> None:
    graph = results["0.5"].graph
    curves = [data["points"][:, 1:] / VOXEL_UM[1:] for _, _, data in graph.edges(data=True)]
    ids = np.unique(results["0.5"].nodes.object_id).tolist()
    zoom = 4  # pixels of a voxel
    size = (SHAPE[1] * zoom, SHAPE[2] * zoom)
    layer = {
        "type": "segmentation",
        "name": "skeletons",
        "source": f"precomputed://{shown.base}/graph/precomputed",
        "segments": [str(label) for label in ids],
        "segmentDefaultColor": "#ffffff",
        "skeletonRendering": {"mode3d": "lines", "lineWidth3d": 1},
    }
    state = {
        **PLAIN,
        "layout": {"type": "3d", "orthographicProjection": True},
        "dimensions": dimensions(shown.scene.scale),
        "position": middle(SHAPE, 1, SHAPE[0] // 2),
        "projectionOrientation": [0, 0, 0, 1],
        "projectionScale": SHAPE[1],
        "projectionBackgroundColor": "#000000",
        "layers": [layer],
    }
    lit = taken(state, size).max(axis=2) > 40
    drawn = np.zeros(size, bool)
    vertices = np.concatenate(curves)
    for curve in curves:
        steps = np.linspace(0, 1, 4 * zoom)[None, :, None]
        along = (curve[:-1, None] + (curve[1:] - curve[:-1])[:, None] * steps).reshape(-1, 2)
        y, x = np.floor((along + 0.5) * zoom).astype(int).T
        drawn[y.clip(0, size[0] - 1), x.clip(0, size[1] - 1)] = True
    y, x = np.floor((vertices + 0.5) * zoom).astype(int).T
    to_lit = ndimage.distance_transform_edt(~lit)[y, x]
    to_graph = ndimage.distance_transform_edt(~drawn)[lit]
    assert len(vertices) > 500
    assert lit.sum() > 1000
    assert to_lit.max() <= 1.5
    assert to_graph.max() <= 1.5
