"""Tubes made to stand out: what follows looks at a vesselness instead of the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import e, sqrt
from typing import ClassVar

import numpy as np

from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.kernels import vesselness
from chunkflow.stages.base import ArraySpec, Draft, Flow, Output, View, host
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.scan import DATA, Range, range_draft

SOLID_TUBE = 1 / (sqrt(2) * e)
"""Half the norm of sigma^2 times the Hessian on the axis of a solid tube of radius sqrt(2) sigma and height 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tubes:
    """Vesselness of voxels that hold data; voxels outside the mask take part in those beside them, as in smoothing.

    c : image values; none is half of what the filter sees of a solid tube as bright as the range of the volume
    """

    array: str
    valid: str | None
    limits: str
    voxel_um: tuple[float, float, float]
    radii_um: tuple[float, ...]
    filter: vesselness.Filter
    bright: bool
    alpha: float
    beta: float
    c: float | None

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("vesselness",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        box = out.grow(vesselness.halo(self.radii_um, self.voxel_um))
        return {self.array: box, self.valid: box} if self.valid else {self.array: box}

    def run(self, view: View, out: Box) -> Output:
        image = view.regions[self.array]
        valid = None
        if self.valid is not None:
            valid = (host(view.regions[self.valid].cut(image.box)) & DATA).astype(np.bool_)
        z, y, x = out.relative_to(image.box.start).slices
        found = vesselness.vesselness(
            host(image.data),
            valid,
            inner=(z, y, x),
            radii_um=self.radii_um,
            voxel_um=self.voxel_um,
            measure=vesselness.Measure(
                filter=self.filter, bright=self.bright, alpha=self.alpha, beta=self.beta, c=self._c(view)
            ),
        )
        return Output(arrays={"vesselness": found})

    def _c(self, view: View) -> float:
        if self.c is not None:
            return self.c
        limits = view.values[self.limits]
        return SOLID_TUBE * float(limits["high"][0] - limits["low"][0]) or 1.0

    def working_bytes(self, out: Triple) -> int:
        halo = vesselness.halo(self.radii_um, self.voxel_um)
        return vesselness.working_bytes(out, triple(tuple(n + 2 * h for n, h in zip(out, halo, strict=True))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vesselness:
    """Replace the image, for the stages that segment, by how much each voxel's surroundings look like a tube.

    filter : "sato": image values, larger for brighter tubes; "frangi": 0 to 1, of the shape more than of the brightness
    radii_um : radii of tubes; the largest response over them is taken
    bright : tubes are brighter than what is around them; false where they are darker
    alpha, beta : of frangi, how far from a plate and from a ball a tube must be
    c : of frangi, in image values: responses well below it count as noise; by default from the range of the volume
    """

    filter: vesselness.Filter = "sato"
    radii_um: tuple[float, ...]
    bright: bool = True
    alpha: float | None = None
    beta: float | None = None
    c: float | None = None

    key: ClassVar[str] = "vesselness"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if not self.radii_um or min(self.radii_um) <= 0:
            raise ConfigError(
                f"vesselness: radii_um is {list(self.radii_um)}", "Give radii of tubes in um, for example [0.15, 0.3]"
            )
        for name in ("alpha", "beta", "c"):
            value = getattr(self, name)
            if value is not None and self.filter != "frangi":
                raise ConfigError(f"vesselness: filter {self.filter} looks at no {name}", "Leave it out, or use frangi")
            if value is not None and value <= 0:
                raise ConfigError(f"vesselness: {name} {value} is not positive", "Leave it out for the default")

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.signal is None:
            raise ConfigError(f"vesselness: the input is {flow.kind}, not an image", "Leave vesselness out")
        tubes = Tubes(
            array=flow.signal,
            valid=flow.valid,
            limits=flow.signal_range,
            voxel_um=flow.scale.voxel_um,
            radii_um=self.radii_um,
            filter=self.filter,
            bright=self.bright,
            alpha=self.alpha or 0.5,
            beta=self.beta or 0.5,
            c=self.c if self.filter == "frangi" else 1.0,
        )
        draft = Draft(
            name="vesselness",
            grid=flow.grid,
            steps=(tubes, Range(array="vesselness", valid=flow.valid)),
            writes=(ArraySpec(name="vesselness", dtype="float32"),),
            needs=(flow.signal_range,) if tubes.c is None else (),
        )
        merge = range_draft(scan="vesselness", merge="vesselness-range", grid=flow.grid)
        after = replace(flow, signal="vesselness", signal_dtype="float32", signal_range="vesselness-range")
        return (draft, merge), after
