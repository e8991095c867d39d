"""Tables of what was found: exact counts and sums per block, merged with topology and graph.

    measure    sums of positions and intensities, surface crossings, contacts, largest distances   -> objects
               (merged in `stages.objects_merge`)                                                  -> contacts
    networks   nodes and branches of the graph, counted per object
    graph-metrics  the shapes of networks (`stages.network_tables`), where they are asked for
    channel-*, image-*  ranges of other channels, which `measure` then sums too (`stages.intensities`)
    region-*   which cell, or part of a tissue, objects, nodes and branches lie in (`stages.regions`)

All that blocks leave are integers, so the tables have the same bits whatever the blocks were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Box, Triple
from chunkflow.kernels import surface
from chunkflow.stages import oriented, regions
from chunkflow.stages.base import BlockStep, ChannelImage, Draft, Flow, Output, View, host
from chunkflow.stages.distance import spacing_weights
from chunkflow.stages.graph import PARTS
from chunkflow.stages.intensities import Channels, Sums, measured_sums, range_drafts, range_of
from chunkflow.stages.network_tables import MergeNetworks, metrics_drafts
from chunkflow.stages.objects_merge import MergeContacts, MergeObjects
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.skeleton import Euler


@dataclass(frozen=True, slots=True, kw_only=True)
class Surfaces:
    """Crossings of the objects' surfaces, and the faces between objects, as far as a block owns them."""

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"labels": out.grow((1, 1, 1))}

    def run(self, view: View, out: Box) -> Output:
        labels = self._with_border(view, out)
        crossings, contacts = surface.block_crossings(labels), surface.block_contacts(labels)
        return Output(
            record={
                "surface_label": crossings.label,
                "crossings": crossings.crossings,
                "contact_pair": contacts.pair,
                "contact_faces": contacts.faces,
            }
        )

    @staticmethod
    def _with_border(view: View, out: Box) -> NDArray[Any]:
        """The core and one voxel around it, zeros outside the volume."""
        region, box = view.regions["labels"], out.grow((1, 1, 1))
        inside = box.clip(region.box)
        before = [a - b for a, b in zip(inside.start, box.start, strict=True)]
        behind = [b - a for a, b in zip(inside.stop, box.stop, strict=True)]
        return np.pad(host(region.cut(inside)), list(zip(before, behind, strict=True)))

    def working_bytes(self, out: Triple) -> int:
        return 18 * prod(n + 2 for n in out)  # 14 measured on noise of half the voxels, 17 on its 6-connected pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Tables of objects (and of branches and nodes, where there is a skeleton).

    intensity : "raw": the input, resampled linearly where the image is; "image": what the segmentation saw; "none"
    image : another image on the input's grid, OME-Zarr or TIFF, which stands for the input in all that is measured:
        "raw" is then the first of `channels`, or its only one, and `channels` are its own. Of labels and masks, which
        have no grey values, these are the only ones
    channels : other channels of the input, by name or number, which are measured too: raw, resampled linearly where
        the image is; and how each goes with the intensity (Pearson, Manders)
    background : what Manders' fractions take for dark, in grey values: one number for all, or one for the intensity
        and one for each channel; 0 as Manders has it, thresholds where there is an offset
    regions : parent regions on the input's grid: an OME-Zarr label image, a TIFF stack of labels, or the RoiSet.zip of
        ImageJ's ROI Manager
    oriented_extents : sides of the boxes around objects that lie along their axes; reads the labels once more
    graph_metrics : the shape of each object's network beside random graphs, in a table of its own: 0.03 s for an
        object at the least, 0.3 s for one of 200 nodes, a minute for one of 20,000
    """

    intensity: Literal["raw", "image", "none"] = "raw"
    image: str | None = None
    channels: tuple[str | int, ...] = ()
    background: float | tuple[float, ...] = 0.0
    regions: str | None = None
    oriented_extents: bool = False
    graph_metrics: bool = False

    key: ClassVar[str] = "measure"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if isinstance(self.background, tuple) and len(self.background) != 1 + self._others:
            raise ConfigError(
                f"measure: background has {len(self.background)} values for the intensity and {self._others} channels",
                "Give one value for all, or one for the intensity and one for each channel",
            )

    @property
    def _others(self) -> int:
        """Channels that are measured beside the intensity."""
        if self.image is None:
            return len(self.channels)
        return max(1, len(self.channels)) - (self.intensity == "raw")

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.labels is None:
            raise ConfigError("measure: there are no labels to measure", "Put label in front of it")
        if self.graph_metrics and not flow.graph:
            raise ConfigError(
                "measure: graph_metrics needs skeletons, and there are none", "Put skeleton in front of it"
            )
        sums = self._sums(flow)
        steps: tuple[BlockStep, ...] = (sums, Surfaces())
        steps += (self._channels(flow, sums),) if flow.channels else ()
        steps += () if flow.euler else (Euler(by_shortcuts=False),)
        images = (*filter(None, (flow.measured,)), *flow.channels)
        ranges = tuple(filter(None, (range_of(channel, flow.resampling) for channel in flow.channels)))
        needs = (*filter(None, (sums.limits,)), *ranges)
        euler = flow.euler or "measure"
        merge = MergeObjects(
            sums="measure",
            euler=euler,
            graph=flow.graph,
            shape=flow.shape,
            voxel_um=flow.scale.voxel_um,
            translation_um=flow.scale.translation_um,
            dtype=sums.dtype,
            limits=sums.limits,
            unit_um=spacing_weights(flow.shape, flow.scale.voxel_um)[1] if flow.graph else 1.0,
            measured=_measured(sums.intensity, flow.measured),
            channels=flow.channels,
            resampling=flow.resampling,
            regions=regions.MERGED if flow.regions else "",
            extents=oriented.EXTENTS if self.oriented_extents else "",
        )
        contacts = MergeContacts(sums="measure", voxel_um=flow.scale.voxel_um)
        graph = (flow.graph, PARTS) if flow.graph else ()
        parents = regions.region_drafts(flow, flow.regions) if flow.regions else ()
        known: tuple[str, ...] = (regions.MERGED,) if flow.regions else ()
        boxes: tuple[Draft, ...] = ()
        if self.oriented_extents:
            boxes = oriented.extent_drafts(flow.grid, "measure", flow.scale.voxel_um)
            known += (oriented.EXTENTS,)
        merged = tuple(dict.fromkeys(("measure", euler, "regions-merge", *graph, *known, *needs)))
        drafts: tuple[Draft, ...] = (
            *(draft for image in images for draft in range_drafts(image, flow)),
            Draft(name="measure", grid=flow.grid, steps=steps, needs=needs),
            *boxes,
            *parents,
            Draft(name="objects", grid=flow.grid, merge=merge, needs=merged),
            Draft(name="contacts", grid=flow.grid, merge=contacts, needs=("measure",)),
        )
        if flow.graph:
            drafts += (Draft(name="networks", grid=flow.grid, merge=MergeNetworks(), needs=(PARTS,)),)
        if self.graph_metrics:
            drafts += metrics_drafts(len(flow.grid))
        return drafts, replace(flow, euler=euler, warnings=(*flow.warnings, *_warnings(flow)))

    def _sums(self, flow: Flow) -> Sums:
        if max(flow.finer) > 1 and (self.intensity == "raw" or flow.channels or flow.regions):
            raise ConfigError(
                f"measure: the network made the grid {flow.finer} times finer than that of the input, whose voxels, "
                "channels and regions do not lie on it",
                "Use intensity: image or none, and no channels or regions",
            )
        return measured_sums(flow, self.intensity)

    def _channels(self, flow: Flow, sums: Sums) -> Channels:
        given = self.background
        backgrounds = tuple(map(float, given if isinstance(given, tuple) else (given,) * (1 + len(flow.channels))))
        return Channels(measured=sums, channels=flow.channels, resampling=flow.resampling, backgrounds=backgrounds)


def _measured(array: str | None, other: ChannelImage | None) -> str:
    """What tables say that the intensities are of."""
    if other is not None and array == other.array:
        return other.name
    return {None: "none", "input": "raw"}.get(array, "image")


def _warnings(flow: Flow) -> tuple[str, ...]:
    """That a plane has volumes only because it is given a thickness."""
    if flow.shape[0] > 1:
        return ()
    return (
        f"the image is a single plane, which counts as {flow.scale.voxel_um[0]:g} um thick: volumes are areas times "
        "that, and objects have no surface. Where it matters, give the thickness with --voxel-um Z Y X",
    )
