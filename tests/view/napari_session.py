"""A child process of tests/view/test_napari.py: napari on the result of a run, and clicks. Prints facts as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qtpy.QtWidgets import QApplication

import chunkflow as cf
from chunkflow.view.plugin import open_napari


def pictured(viewer: Any, names: set[str]) -> int:
    """Coloured pixels of the canvas when only these layers are shown."""
    for layer in viewer.layers:
        layer.visible = layer.name in names
    settle()
    shot = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    return int(((shot.max(axis=2) - shot.min(axis=2)) > 40).sum())


def settle() -> None:
    for _ in range(20):
        QApplication.processEvents()


def main(out: str, png: str) -> None:
    result = cf.open_result(out)
    viewer = open_napari(out)
    viewer.window.resize(1200, 820)
    settle()
    rows = next(iter(viewer.window.dock_widgets.values()))
    labels = np.asarray(viewer.layers["objects"].data[0])
    z, y, x = np.argwhere(labels == labels.max())[0]
    place = viewer.layers["objects"].data_to_world((z, y, x))
    viewer.dims.set_point(0, place[0])
    rows.show_at(place, None, [1, 2])
    clicked = {rows.table.item(k, 0).text(): rows.table.item(k, 1).text() for k in range(rows.table.rowCount())}
    title = rows.title.text()
    viewer.layers.selection.active = viewer.layers["nodes"]
    node = viewer.layers["nodes"]
    at = node.data_to_world(node.data[0])
    viewer.dims.set_point(0, at[0])
    rows.show_at(at, None, [1, 2])
    node_row = {rows.table.item(k, 0).text(): rows.table.item(k, 1).text() for k in range(rows.table.rowCount())}
    rows.show_at(
        viewer.layers["objects"].data_to_world((0, 0, 0)) if labels[0, 0, 0] == 0 else (1e6,) * 3, None, [1, 2]
    )
    emptied = rows.table.rowCount()
    viewer.dims.set_point(0, place[0])
    viewer.layers.selection.active = viewer.layers["objects"]
    rows.show_at(place, None, [1, 2])
    settle()
    viewer.screenshot(png, canvas_only=False, flash=False)
    features = viewer.layers["objects"].features
    joined = features.iloc[1:].drop(columns="index").reset_index(drop=True)
    pd.testing.assert_frame_equal(joined, result.objects, check_dtype=False)
    facts = {
        "layers": {layer.name: type(layer).__name__ for layer in viewer.layers},
        "scale": {layer.name: [float(v) for v in layer.scale] for layer in viewer.layers},
        "units": sorted({str(unit) for layer in viewer.layers for unit in layer.units}),
        "levels": {name: [list(level.shape) for level in viewer.layers[name].data] for name in ("image", "objects")},
        "equal": {
            "image": bool((np.asarray(viewer.layers["image"].data[0]) == result.image[...]).all()),
            "objects": bool((labels == result.labels[...]).all()),
        },
        "contrast": [float(v) for v in viewer.layers["image"].contrast_limits],
        "label": int(labels.max()),
        "title": title,
        "row": clicked,
        "node_row": node_row,
        "emptied": emptied,
        "nodes": len(viewer.layers["nodes"].data),
        "steps": len(viewer.layers["skeleton lines"].data),
        "length_um": float(
            np.linalg.norm(viewer.layers["skeleton lines"].data[:, 1] * viewer.layers["image"].scale, axis=1).sum()
        ),
        "length_of_curves_um": sum(
            float(np.linalg.norm(np.diff(data["points"], axis=0), axis=1).sum())
            for _, _, data in result.graph.edges(data=True)
        ),
        "pixels": {name: pictured(viewer, {name}) for name in ("objects", "nodes", "skeleton lines")},
        "nothing": pictured(viewer, set()),
    }
    viewer.close()
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1], str(Path(sys.argv[2])))
