"""Another voxel size for all that follows: linear between voxel centres, exact in global coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isclose, prod
from typing import ClassVar, Literal

from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.geometry.scale import Scale
from chunkflow.kernels import resample
from chunkflow.stages.base import ArraySpec, BlockStep, Draft, Flow, Output, Resampling, View
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.scan import Range, Validity, range_draft


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpolate:
    """One array on the new grid, float32: linear, each voxel by the same formula whatever the block."""

    array: str
    resampling: Resampling
    product: str = "image"

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("image",)
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.array: self.resampling.source(out)}

    def run(self, view: View, out: Box) -> Output:
        region = view.regions[self.array]
        r = self.resampling
        data = resample.linear(region.data, region.box.start, out.start, out.stop, r.shape_in, r.voxel_in, r.voxel_out)
        return Output(arrays={"image": data})

    def working_bytes(self, out: Triple) -> int:
        source = self.resampling.source(Box.of_shape(out)).size
        return 12 * max(prod(out), source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resample:
    """Resample the image before it is segmented.

    voxel_um : the new voxel size in z, y, x, or "isotropic": the smallest of the three
    """

    voxel_um: tuple[float, float, float] | Literal["isotropic"] = "isotropic"

    key: ClassVar[str] = "resample"
    makes_image: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if self.voxel_um != "isotropic" and min(self.voxel_um) <= 0:
            raise ConfigError(f"resample: voxel_um {list(self.voxel_um)} is not positive", "Give a size in um")

    def target(self, scale: Scale) -> tuple[float, float, float]:
        """The new voxel size in um."""
        return (min(scale.voxel_um),) * 3 if self.voxel_um == "isotropic" else self.voxel_um

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        voxel = self.target(flow.scale)
        if flow.kind != "image":
            raise ConfigError(f"resample: the input is {flow.kind}, not an image", "Leave resample out")
        if flow.resampling is not None:
            raise ConfigError("resample: stands twice in the pipeline", "Keep one of them")
        if any(isclose(a, b) and a != b for a, b in zip(voxel, flow.scale.voxel_um, strict=True)):
            voxel = _snapped(voxel, flow.scale.voxel_um)
        how = Resampling(flow.shape, flow.scale.voxel_um, voxel)
        shape = resample.output_shape(flow.shape, flow.scale.voxel_um, voxel)
        whole, origin = _of_whole(flow, voxel)
        grid = Grid(shape, flow.block)
        steps: list[BlockStep] = []
        name = "image" if flow.image_by == self.key else "resampled"
        writes = [ArraySpec(name=name, dtype="float32", product="image")]
        excluded = flow.nodata is not None or flow.has_mask
        if excluded:
            steps.append(Validity(nodata=flow.nodata, has_mask=flow.has_mask, resampling=how))
            writes.append(ArraySpec(name="valid", dtype="uint8"))
        valid = "valid" if excluded else None
        source = "input" if flow.image is None else flow.image
        steps += [Interpolate(array=source, resampling=how), Range(array="image", valid=valid)]
        draft = Draft(name="resample", grid=grid, steps=tuple(steps), writes=tuple(writes))
        after = replace(
            flow,
            shape=shape,
            whole=whole,
            origin=origin,
            scale=Scale(voxel_um=voxel, translation_um=flow.scale.translation_um),
            resampling=how,
            image=name,
            image_dtype="float32",
            image_range="resample-range",
            signal=name,
            signal_dtype="float32",
            signal_range="resample-range",
            valid=valid,
        )
        return (draft, range_draft(scan="resample", merge="resample-range", grid=grid)), after


def _of_whole(flow: Flow, voxel: tuple[float, float, float]) -> tuple[Triple | None, Triple]:
    """Shape of the whole volume and origin of a region on the new grid, exact where the region begins at a voxel of
    it (see `plan.region`)."""
    if flow.whole is None:
        return None, flow.origin
    ratios = zip(flow.origin, flow.scale.voxel_um, voxel, strict=True)
    return resample.output_shape(flow.whole, flow.scale.voxel_um, voxel), triple(
        tuple(round(o * a / b) for o, a, b in ratios)
    )


def _snapped(voxel: tuple[float, ...], near: tuple[float, ...]) -> tuple[float, float, float]:
    """`voxel` with sizes that differ from the input's in the last bits only replaced by the input's."""
    z, y, x = (b if isclose(a, b) else a for a, b in zip(voxel, near, strict=True))
    return z, y, x
