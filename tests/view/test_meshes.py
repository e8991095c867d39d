"""Meshes that are exported for Neuroglancer, as it shows them: the shadow of each is that of its voxels."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import chunkflow as cf
from chunkflow.storage.omezarr import open_volume
from chunkflow.view.browser import NAMES
from chunkflow.view.neuroglancer import camera, showing
from chunkflow.view.state import dimensions

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.viewer,
    pytest.mark.skipif(not any(map(shutil.which, NAMES)), reason="Chromium is not installed"),
]
pytest.importorskip("neuroglancer", reason="neuroglancer is not installed")

SHAPE = (24, 230, 262)  # as in conftest
ZOOM = 4


def test_the_shadow_of_the_meshes_is_that_of_the_objects(results: dict[str, cf.Result]) -> None:
    result = results["0.5"]
    labels = open_volume(result.path / "image.ome.zarr/labels/objects")[...]
    cf.export(result.path, "mesh", mesh_format="precomputed")
    with showing(result.path) as shown:
        layer = {
            "type": "segmentation",
            "name": "meshes",
            "source": f"precomputed://{shown.base}/export/meshes",
            "segments": [str(label) for label in np.unique(labels)[1:].tolist()],
            "segmentDefaultColor": "#ffffff",
        }
        state = {
            "showAxisLines": False,
            "showScaleBar": False,
            "showDefaultAnnotations": False,
            "layout": {"type": "3d", "orthographicProjection": True},
            "dimensions": dimensions(shown.scene.scale),
            "position": [SHAPE[2] / 2 - 0.5, SHAPE[1] / 2 - 0.5, SHAPE[0] // 2],
            "projectionOrientation": [0, 0, 0, 1],
            "projectionScale": SHAPE[1],
            "projectionBackgroundColor": "#000000",
            "layers": [layer],
        }
        shown.show(state)
        with camera(shown, size=(SHAPE[2] * ZOOM, SHAPE[1] * ZOOM)) as seen:
            picture = np.asarray(Image.open(io.BytesIO(seen.picture())).convert("RGB"))
    lit = picture.max(axis=2) > 20
    shadow = (labels > 0).any(axis=0).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    assert shadow.sum() > 10_000
    apart = lit != shadow
    assert apart.sum() < 0.06 * shadow.sum()
    assert ndimage.distance_transform_edt(~shadow)[lit].max() <= 0.6 * ZOOM  # a mesh passes between voxel centres
    assert ndimage.distance_transform_edt(shadow)[~lit].max() <= 0.9 * ZOOM + 1
