"""The state of Neuroglancer that shows a scene, as JSON: layers, colours, contrast, where to look.

    image       grey values between the two ends that the metadata name, with a slider
    objects     a colour for each id, the skeletons of the largest ones as lines of the same colour
    nodes       points, coloured by kind; each knows its object
    skeleton, mask, probability ...     there, hidden

Coordinates are voxels of the finest level, x, y, z, with the voxel size as unit, and voxel i is centred at i. A state
names data by URL, so it shows the same to everybody who can reach them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chunkflow.errors import UsageError
from chunkflow.geometry.scale import Scale
from chunkflow.storage.annotations import KINDS
from chunkflow.storage.graphs import NM_PER_UM
from chunkflow.view.scene import ANNOTATIONS, PRECOMPUTED, Layer, Scene
from chunkflow.view.start import Voxel, start_of

State = dict[str, Any]

SKELETONS = 1000
"""Objects whose skeletons are shown at first."""
NODES = 2000
"""Nodes that are part of a state: about 100 bytes each, and addresses end at two million."""
WINDOW_PX = (1200, 900)
"""Width and height of the window that the volume is to fill, where nothing else is said."""
MARGIN = 1.08
OPACITY = 0.4
BACKGROUND = "#202020"
LAYOUTS = ("4panel", "xy", "xz", "yz", "3d", "xy-3d")

_IMAGE = """#uicontrol invlerp contrast
#uicontrol vec3 color color(default="#{color}")
void main() {{ emitRGB(color * contrast()); }}
"""
_NODES = """void main() {
  vec3 color = vec3(1.0, 0.85, 0.2);
  if (prop_kind() == 1u) color = vec3(1.0, 0.25, 0.2);
  if (prop_kind() == 2u) color = vec3(0.6, 0.6, 0.6);
  if (prop_kind() == 3u) color = vec3(0.3, 0.8, 1.0);
  setColor(color);
  setPointMarkerSize(6.0);
  setPointMarkerBorderWidth(1.0);
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Where to look from, and at what."""

    at: tuple[float, float, float] | None = None
    """Voxel z, y, x in the middle; None for one where something is, as `view.start` finds it."""
    layout: str = "4panel"
    window_px: tuple[int, int] = WINDOW_PX
    """Width and height of the window that the volume is to fill."""

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UsageError(f"layout {self.layout!r} is not known", f"Known: {', '.join(LAYOUTS)}")


def neuroglancer_state(scene: Scene, base: str, look: Look | None = None) -> State:
    """The state that shows a scene whose folder is at the URL `base`.

    Raises
    ------
    UsageError : the place to look at is outside the volume.
    """
    look = look or Look()
    base = base.rstrip("/")
    at = _looked_at(scene, look)
    layers = [_layer(scene, layer, base) for layer in scene.layers]
    if scene.has_skeletons and not any(layer.name == "objects" for layer in scene.layers):
        layers.append({"type": "segmentation", "name": "objects", **_skeletons(scene, base)})
    if len(scene.nodes):
        layers.append(_nodes(scene, base))
    return {
        "dimensions": dimensions(scene.scale),
        "position": _position(scene, at),
        **_zoom(scene, look, at),
        "projectionOrientation": [0.33, 0.17, 0.06, 0.93],
        "crossSectionBackgroundColor": BACKGROUND,
        "projectionBackgroundColor": BACKGROUND,
        "layers": layers,
        "selectedLayer": {"layer": layers[0]["name"], "visible": False},
        "showSlices": False,
        "layout": look.layout,
    }


def _zoom(scene: Scene, look: Look, at: Voxel) -> State:
    """Scales at which the panels hold the whole volume around a voxel, in the shortest side of a voxel."""
    voxel = scene.scale.voxel_um
    sides = [max(n, 2 * a + 1, 2 * (n - a) - 1) for n, a in zip(scene.shape, at, strict=True)]
    z, y, x = (side * v / min(voxel) * MARGIN for side, v in zip(sides, voxel, strict=True))
    columns = 2 if look.layout in ("4panel", "xy-3d") else 1
    width, height = look.window_px[0] / columns, look.window_px[1] / (2 if look.layout == "4panel" else 1)
    planes = {"xy": ((x, y),), "xz": ((x, z),), "yz": ((z, y),)}.get(look.layout, ((x, y), (x, z), (z, y)))
    return {
        "crossSectionScale": max(max(right / width, down / height) for right, down in planes),
        "projectionScale": float(np.linalg.norm((z, y, x)) * max(1.0, height / width)),
    }


def dimensions(scale: Scale) -> State:
    """Voxels along x, y, z as units of length, in m."""
    return {name: [voxel * 1e-6, "m"] for name, voxel in zip("xyz", reversed(scale.voxel_um), strict=True)}


def _looked_at(scene: Scene, look: Look) -> Voxel:
    """The voxel in the middle."""
    at = look.at or start_of(scene)
    if not all(0 <= a < n for a, n in zip(at, scene.shape, strict=True)):
        where, size = (" ".join(f"{v:g}" for v in values) for values in (at, scene.shape))
        raise UsageError(f"voxel {where} is outside the volume of {size} voxels", "Give z y x inside it")
    return at


def _position(scene: Scene, at: Voxel) -> list[float]:
    """x, y, z in voxels of the state, whose 0 is where the unit of length begins."""
    origin = [t / v for t, v in zip(scene.scale.translation_um, scene.scale.voxel_um, strict=True)]
    return [a + o for a, o in zip(reversed(at), reversed(origin), strict=True)]


def _layer(scene: Scene, layer: Layer, base: str) -> State:
    url = f"zarr://{base}/{layer.path}/" if layer.path else f"zarr://{base}/"
    common: State = {"name": layer.name, "source": url, "visible": layer.is_visible}
    if not layer.is_labels:
        return {"type": "image", **common, **_contrast(layer)}
    shown: State = {"selectedAlpha": OPACITY, "notSelectedAlpha": OPACITY}
    if layer.name == "objects" and scene.has_skeletons:
        skeletons = _skeletons(scene, base)
        shown |= {**skeletons, "source": [url, *skeletons["source"]]}
    return {"type": "segmentation", **common, **shown}


def _contrast(layer: Layer) -> State:
    shown: State = {"shader": _IMAGE.format(color=layer.color.lower()), "opacity": 1}
    if layer.window is not None:
        contrast: State = {"range": _numbers(layer.window)}
        if layer.limits is not None:
            contrast["window"] = _numbers(layer.limits)
        shown["shaderControls"] = {"contrast": contrast}
    return shown


def _numbers(values: Sequence[float]) -> list[float]:
    """Integers as such: of a channel of integers Neuroglancer takes no others."""
    return [int(value) if float(value).is_integer() else value for value in values]


def _skeletons(scene: Scene, base: str) -> State:
    return {
        "source": [f"precomputed://{base}/{PRECOMPUTED}"],
        "segments": [str(label) for label in scene.largest_objects[:SKELETONS].tolist()],
        "skeletonRendering": {"mode2d": "lines", "lineWidth2d": 2, "mode3d": "lines", "lineWidth3d": 3},
    }


def _nodes(scene: Scene, base: str) -> State:
    """The nodes: up to `NODES` in the state itself, more by their URL; the first ones where there is none."""
    layer: State = {"type": "annotation", "name": "nodes", "shader": _NODES, "linkedSegmentationLayer": {}}
    if scene.has_skeletons or any(each.name == "objects" for each in scene.layers):
        layer["linkedSegmentationLayer"] = {"object": "objects"}
    if len(scene.nodes) > NODES and scene.has_annotations:
        return {**layer, "source": f"precomputed://{base}/{ANNOTATIONS}"}
    return {
        **layer,
        "source": {"url": "local://annotations", "transform": {"outputDimensions": dimensions(scene.scale)}},
        "annotationProperties": [
            {"id": "radius", "type": "float32", "description": "nm"},
            {"id": "degree", "type": "uint16"},
            {"id": "kind", "type": "uint8", "enum_values": list(range(len(KINDS))), "enum_labels": list(KINDS)},
        ],
        "annotationRelationships": ["object"],
        "annotations": _points(scene),
    }


def _points(scene: Scene) -> list[State]:
    rows = scene.nodes.head(NODES)
    xyz = np.round(rows[["x_um", "y_um", "z_um"]].to_numpy(np.float64) / scene.scale.voxel_um[::-1], 3)
    return [
        {
            "type": "point",
            "id": str(row["node_id"]),
            "point": point,
            "props": [round(row["radius_um"] * NM_PER_UM, 1), int(row["degree"]), KINDS.index(str(row["kind"]))],
            "segments": [[str(row["object_id"])]],
        }
        for row, point in zip(rows.to_dict("records"), xyz.tolist(), strict=True)
    ]
