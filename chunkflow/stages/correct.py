"""Uneven light corrected before anything else looks at the image; what is estimated is decided once per volume.

    input -> (input - dark) / flat -> - background -> x gain of the plane -> - opening -> negatives to 0 -> image

    pass 1  counts of (input - dark) / flat, per plane where planes get gains        only for a percentile or a gain
    merge   background and gains, from integer counts: the same for any blocks
    pass 2  the image, its range, and how many voxels were clipped

The first pass and its merge are in `stages.correct_levels`. The top-hat comes last: fading planes would otherwise look
like flat objects to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module
from chunkflow.errors import ConfigError, PlanError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.kernels import shading
from chunkflow.stages.base import ArraySpec, BlockStep, Draft, Flow, Merged, Output, Record, View, iterate
from chunkflow.stages.correct_levels import MergeLevels, PlaneHistograms, Span, flattened
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.scan import DATA, INSIDE, MergeRange, Range, Validity


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjust:
    """The corrected voxels of a core (see the module); 0 where the input has no data. Counts what was negative.

    has_levels : whether background and gains were measured
    tophat_vox : half sides of the box, or None
    """

    valid: str | None
    has_levels: bool
    tophat_vox: Triple | None
    constant_bytes: int

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("corrected",)
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        box = out if self.tophat_vox is None else out.grow(shading.tophat_halo(self.tophat_vox))
        return {"input": box, self.valid: box} if self.valid else {"input": box}

    def run(self, view: View, out: Box) -> Output:
        region = view.regions["input"]
        inside = out.relative_to(region.box.start).slices
        image = flattened(region, view.values[""])
        xp = array_module(image)
        if self.has_levels:
            _level(image, region.box, view.values["correct-levels"])
        valid = None if self.valid is None else view.regions[self.valid].cut(region.box)
        if self.tophat_vox is not None:
            image = shading.tophat(image, None if valid is None else (valid & DATA).astype(bool), self.tophat_vox)
        image = image[inside]
        below = image < 0
        keeps = image > 0  # not a maximum with 0, whose zeros may have either sign
        if valid is not None:
            below &= valid[inside] == DATA | INSIDE
            keeps &= (valid[inside] & DATA).astype(bool)
        clipped = np.array([int(below.sum())], np.int64)
        return Output(arrays={"corrected": xp.where(keeps, image, xp.float32(0))}, record={"clipped": clipped})

    def working_bytes(self, out: Triple) -> int:
        if self.tophat_vox is None:
            return 7 * prod(out) + self.constant_bytes
        halo = shading.tophat_halo(self.tophat_vox)
        return 16 * prod(n + 2 * h for n, h in zip(out, halo, strict=True)) + self.constant_bytes


def _level(image: Any, box: Box, levels: Record) -> None:
    """Subtract the background and multiply by the gains of the planes, in place."""
    xp = array_module(image)
    image -= np.float32(levels["background"][0])
    image *= xp.asarray(levels["gain"][box.start[0] : box.stop[0], None, None].astype(np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeCorrected:
    """Range of the corrected image, and how many of its usable voxels were negative and are 0 (`clipped`)."""

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        limits = MergeRange(source="correct").run(records, values).values
        clipped = sum(int(record["clipped"][0]) for record in iterate(records["correct"]))
        return Merged({**limits, "clipped": np.array([clipped], np.int64)})

    def working_bytes(self, blocks: int) -> int:
        return 200 * blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Correct:
    """Take uneven light out of the image: dark and flat-field images, background, planes that fade.

    dark : TIFF taken with the light off, a plane or a stack at the input's voxels, or one grey value; subtracted from
        the image and from the flat
    flat : TIFF of an evenly bright field, a plane or a stack; the image is divided by it, its mean taken as 1
    background_percentile : subtract the grey value that has this per cent of the volume at or below it
    background_tophat_um : subtract what is wider than a box (white top-hat) of this half side in um, rounded to voxels;
        three values for z, y, x, where 0 leaves an axis alone: [0, 2, 2] works plane by plane. After the gain
    gain : "slice": scale each plane so that a percentile of it, less the background, is the volume's; "volume": scale
        the whole; "none". A plane without usable voxels or not brighter than the background stays as it is
    gain_percentile : which percentile; raise it where less than half of a plane is stained
    gain_reference : what to scale to, instead of the volume's own level: grey values above dark and background. A run
        sees one time point: give all of them one reference (the `reference` another run found) and they are alike
    dark_image, flat_image : (Y, X) or (Z, Y, X) their voxels; filled in from the paths when a pipeline is read

    What becomes negative is set to 0 and counted.
    """

    dark: str | float | None = None
    flat: str | None = None
    background_percentile: float | None = None
    background_tophat_um: float | tuple[float, float, float] | None = None
    gain: Literal["none", "slice", "volume"] = "none"
    gain_percentile: float = 50.0
    gain_reference: float | None = None
    dark_image: Any = None
    flat_image: Any = None

    key: ClassVar[str] = "correct"
    makes_image: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        asked = (self.dark, self.flat, self.background_percentile, self.background_tophat_um)
        images = (self.dark_image, self.flat_image)
        if self.gain == "none" and all(value is None for value in (*asked, *images)):
            raise ConfigError(
                "correct: nothing is to be corrected",
                "Give dark, flat, background_percentile, background_tophat_um or gain, or leave correct out",
            )
        if isinstance(self.dark, int | float) and self.dark_image is not None:
            raise ConfigError(f"correct: dark is {self.dark} and an image", "Keep one of them")
        self._check_background()
        self._check_gain()

    def _check_background(self) -> None:
        q, radius = self.background_percentile, self.background_tophat_um
        if q is not None and radius is not None:
            raise ConfigError("correct: background_percentile and background_tophat_um are both given", "Keep one")
        if q is not None and not 0 <= q <= 100:
            raise ConfigError(f"correct: background_percentile {q} is not in 0..100", "Use 5, say")
        if radius is not None and (min(_radii(radius)) < 0 or max(_radii(radius)) == 0):
            raise ConfigError(f"correct: background_tophat_um {radius} is not positive", "Give a half side in um")

    def _check_gain(self) -> None:
        if not 0 <= self.gain_percentile <= 100:
            raise ConfigError(f"correct: gain_percentile {self.gain_percentile} is not in 0..100", "Use 50, say")
        if self.gain != "none" and (self.background_percentile or 0) > self.gain_percentile:
            raise ConfigError(
                f"correct: gain_percentile {self.gain_percentile} is under background_percentile "
                f"{self.background_percentile}",
                "Compare planes by what is above the background",
            )
        if self.gain == "volume" and self.gain_reference is None:
            raise ConfigError("correct: gain volume has nothing to scale to", "Give gain_reference")
        if self.gain_reference is not None and self.gain == "none":
            raise ConfigError(
                f"correct: gain_reference {self.gain_reference} without a gain", "Add gain: slice or volume"
            )
        if self.gain_reference is not None and self.gain_reference <= 0:
            raise ConfigError(f"correct: gain_reference {self.gain_reference} is not positive", "Give a grey value")

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.kind != "image":
            raise ConfigError(f"correct: the input is {flow.kind}, not an image", "Leave correct out")
        constants = _cut_out(self._constants(flow.whole or flow.shape), flow.origin, flow.shape)
        # Twice, as decoding the file of the constants takes them once more.
        held = 2 * sum(array.nbytes for array in constants.values())
        marks, valid = _marks(flow)
        levels = self.background_percentile is not None or self.gain != "none"
        adjust = Adjust(valid=valid, has_levels=levels, tophat_vox=self._tophat_vox(flow), constant_bytes=held)
        name = "image" if flow.image_by == self.key else "corrected"
        correct = Draft(
            name="correct",
            grid=flow.grid,
            steps=(*marks, adjust, Range(array="corrected", valid=valid)),
            writes=(ArraySpec(name=name, dtype="float32", product="corrected"),),
            needs=("correct-levels",) if levels else (),
            constants=constants,
        )
        merge = Draft(name="correct-range", grid=flow.grid, merge=MergeCorrected(), needs=("correct",))
        after = replace(
            flow,
            image=name,
            image_dtype="float32",
            image_range="correct-range",
            signal=name,
            signal_dtype="float32",
            signal_range="correct-range",
        )
        return (*(self._measured(flow, constants, held) if levels else ()), correct, merge), after

    def _measured(self, flow: Flow, constants: Record, held: int) -> tuple[Draft, Draft]:
        """The passes that find background and gains."""
        marks, valid = _marks(flow)
        span = Span(dtype=flow.input_dtype, dark=_range(constants["dark"]), flat=_range(constants["flat"]))
        by_plane = self.gain == "slice"
        counts = PlaneHistograms(valid=valid, span=span, by_plane=by_plane, constant_bytes=held)
        merge = MergeLevels(
            span=span,
            grid=flow.grid,
            by_plane=by_plane,
            background_percentile=self.background_percentile,
            gain=self.gain,
            gain_percentile=self.gain_percentile,
            gain_reference=self.gain_reference,
        )
        needs = ("range",)
        return (
            Draft(name="correct-histogram", grid=flow.grid, steps=(*marks, counts), needs=needs, constants=constants),
            Draft(name="correct-levels", grid=flow.grid, merge=merge, needs=("correct-histogram", *needs)),
        )

    def _constants(self, shape: Triple) -> Record:
        """The dark and flat images, float32, each axis the volume's or of length one."""
        dark, flat = np.zeros((1, 1, 1)), np.ones((1, 1, 1), np.float32)
        if isinstance(self.dark, int | float):
            dark += self.dark
        elif self.dark is not None or self.dark_image is not None:
            dark = _on_grid(self.dark_image, _called("dark", self.dark), shape)
            _check_finite(dark, _called("dark", self.dark))
        if self.flat is not None or self.flat_image is not None:
            field = _on_grid(self.flat_image, _called("flat", self.flat), shape)
            light = field - (dark.mean(axis=0, keepdims=True) if len(field) == 1 else dark)
            _check_lit(light, _called("flat", self.flat))
            flat = shading.normalised_flat(light)
        return {"dark": dark.astype(np.float32), "flat": flat}

    def _tophat_vox(self, flow: Flow) -> Triple | None:
        """Half sides of the top-hat's box in voxels; 0 across an image of one plane."""
        if self.background_tophat_um is None:
            return None
        found = []
        for axis, um, voxel, n in zip(
            "zyx", _radii(self.background_tophat_um), flow.scale.voxel_um, flow.shape, strict=True
        ):
            if 0 < um < voxel * (1 - 1e-9) and n > 1:
                raise PlanError(
                    f"correct: background_tophat_um {um:g} is under a voxel along {axis}, which is {voxel:g} um",
                    f"Use more than the objects are wide, or 0 for {axis} in [z, y, x]",
                )
            found.append(floor(um / voxel + 0.5) if n > 1 else 0)
        return triple(found)


def _cut_out(constants: Record, origin: Triple, shape: Triple) -> Record:
    """The part of images of the whole volume that a region takes; an axis of length one goes for all positions."""
    spans = [slice(o, o + n) for o, n in zip(origin, shape, strict=True)]
    return {
        name: image[tuple(slice(None) if n == 1 else s for n, s in zip(image.shape, spans, strict=True))]
        for name, image in constants.items()
    }


def _radii(um: float | tuple[float, float, float]) -> tuple[float, float, float]:
    return um if isinstance(um, tuple) else (um, um, um)


def _marks(flow: Flow) -> tuple[tuple[BlockStep, ...], str | None]:
    """What makes the marks of usable voxels on the input's grid, and their name; a resample stores those of its own."""
    if flow.valid is not None or not (flow.nodata is not None or flow.has_mask):
        return (), flow.valid
    return (Validity(nodata=flow.nodata, has_mask=flow.has_mask, resampling=None),), "valid"


def _called(name: str, path: str | None) -> str:
    return f"{name} image" if path is None else f"{name} image {path}"


def _range(image: NDArray[Any]) -> shading.Range:
    return float(image.min()), float(image.max())


def _on_grid(image: Any, called: str, shape: Triple) -> NDArray[np.float64]:
    """An image as (1 or Z, Y, X) float64."""
    if image is None:
        raise ConfigError(f"correct: the {called} was not read", "Load the pipeline with Pipeline.from_yaml")
    voxels = np.asarray(image, np.float64)
    stack = voxels[None] if voxels.ndim == 2 else voxels
    if stack.shape not in (shape, (1, *shape[1:])):
        raise PlanError(
            f"correct: the {called} has shape {voxels.shape}, the input {shape}",
            f"Give one plane of {shape[1:]} or a stack of {shape} voxels, at the input's binning and crop",
        )
    return stack


def _check_finite(image: NDArray[np.float64], called: str) -> None:
    wrong = int((~np.isfinite(image)).sum())
    if wrong:
        raise ConfigError(f"correct: {wrong} of {image.size} pixels of the {called} are no numbers", "Repair it")


def _check_lit(light: NDArray[np.float64], called: str) -> None:
    """Refuse a flat that cannot be divided by."""
    wrong = int((~((light > 0) & np.isfinite(light))).sum())
    if wrong:
        raise ConfigError(
            f"correct: {wrong} of {light.size} pixels of the {called} are 0 or less once its dark is subtracted",
            "Repair dead pixels; a flat that was cleared of its dark before needs that dark added again",
        )
