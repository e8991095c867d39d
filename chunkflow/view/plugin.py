"""What napari finds of us: a reader for folders of results, and `chunkflow view OUT --napari`.

The manifest is chunkflow/napari.yaml. OME-Zarr images alone are left to napari-ome-zarr.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from chunkflow.errors import ChunkflowError, UsageError
from chunkflow.view.layers import LayerData, result_layers
from chunkflow.view.scene import holds_result, open_scene
from chunkflow.view.start import start_of

THICKNESS = 3.0
"""Voxels around a plane whose lines and points are shown with it."""


def napari_get_reader(path: str | list[str]) -> Callable[[str], list[LayerData]] | None:
    """The reader of a result's folder; None of anything else."""
    if not isinstance(path, str):
        return None
    try:
        return result_layers if holds_result(path) else None
    except ChunkflowError:  # a URL of others, or one that refuses access: who can open it says what is wrong
        return None


def open_napari(location: str | Path) -> Any:
    """A napari viewer with all of a result and the rows of the clicked object; `napari.run()` then shows it.

    Raises
    ------
    UsageError : napari is not installed.
    """
    layers = result_layers(location)
    try:
        import napari

        from chunkflow.view.rows import ObjectRows
    except ImportError as error:
        raise UsageError(
            f"napari cannot be opened ({error})", "pip install 'chunkflow-engine[viewers]', or napari and pyqt6"
        ) from error
    scene = open_scene(location)
    viewer = napari.Viewer(title=f"chunkflow: {scene.name}")
    for data, keywords, kind in layers:
        getattr(viewer, f"add_{kind}")(data, **keywords)
    viewer.canvas.overlays.scale_bar.visible = True
    start = zip(start_of(scene), scene.scale.voxel_um, scene.scale.translation_um, strict=True)
    viewer.dims.set_point(range(3), [at * voxel + origin for at, voxel, origin in start])
    viewer.dims.thickness = tuple(THICKNESS * step for step in viewer.layers.extent.step)
    if "objects" in viewer.layers:
        viewer.layers.selection.active = viewer.layers["objects"]
    viewer.window.add_dock_widget(ObjectRows(viewer), name="Object rows", area="right")
    return viewer
