"""A function of the user's, as Cellpose, StarDist or a filter of scikit-image, which sees one tile at a time.

A tile is a block of a lattice that the pipeline fixes, and the function sees a halo around it; so what it makes of a
tile depends on no block, if the function is deterministic:

    volume    |-- tile 0 --|-- tile 1 --|-- tile 2 -|
    seen      |-- tile 0 ----|                            cores with their halos, clipped to the volume
                         |---- tile 1 ----|
                                      |---- tile 2 -|

    output: image     the halo is cut off, cores are the image (float32): that of the whole volume where a voxel of it
                      depends on voxels within the halo alone
    output: labels    objects are put together where tiles overlap (`stages.tile_labels`), which no halo makes exact
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil, prod
from typing import Any, ClassVar, Literal

import numpy as np

from chunkflow.errors import ConfigError, ModelError, NotANumberError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.stages.base import ArraySpec, Draft, Flow, Output, View, host
from chunkflow.stages.functions import Function, applied, check_call, find_function, takes
from chunkflow.stages.label import Label
from chunkflow.stages.lattice import Lattice
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.scan import Range, range_draft
from chunkflow.stages.tile_labels import LabelTile, object_drafts

FOREGROUND = frozenset({"predict", "pixels", "vesselness", "threshold"})
"""Stages that say where objects are, which is of no use behind objects."""
ROUNDING = 1e-6  # of a voxel: 0.7 um are 7 voxels of 0.1 um, whatever their quotient is in binary


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTile:
    """What the function makes of a tile and its halo, in the core of the tile."""

    array: str
    lattice: Lattice
    function: Function
    options: Mapping[str, Any]
    bytes_per_voxel: int = field(metadata={"fingerprint": False})

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("applied",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.array: out.grow(self.lattice.halo)}

    def run(self, view: View, out: Box) -> Output:
        seen, name = self.lattice.seen(view.block), self.function.name
        values = applied(self.function, host(view.regions[self.array].cut(seen)).copy(), self.options, seen, "apply")
        if values.dtype.kind not in "buif":
            raise ModelError(f"apply: {name} gave {values.dtype}, not an image", "Return real numbers")
        with np.errstate(over="ignore"):  # infinity is found just below
            image = np.ascontiguousarray(values[out.relative_to(seen.start).slices], np.float32)
        wrong = int((~np.isfinite(image)).sum())
        if wrong:
            raise NotANumberError(
                f"apply: {name} gave {wrong} voxels of NaN, infinity or beyond float32 in {out}",
                "Correct the function, which may meet zeros or values without data there",
            )
        return Output(arrays={"applied": image})

    def working_bytes(self, out: Triple) -> int:
        seen = prod(n + 2 * h for n, h in zip(out, self.lattice.halo, strict=True))
        return (self.bytes_per_voxel + 16) * seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """An image or objects from a function of the user's, tile by tile.

    function : "package.module:name". It takes an array (Z, Y, X) of the image as it is there, and the options as
        keywords, `voxel_um` (z, y, x) too where it has such a parameter, and returns an array of that shape. Sides of
        the volume come without a halo, so shapes differ
    output : "labels": it returns integers, 0 for background; stands in place of label. "image": it returns real
        numbers, and what follows looks at them instead of the image
    options : keywords for it; numbers, texts, lists
    tile : voxels of a tile, per axis or for all three
    halo : voxels around a tile that the function sees with it: for an image the reach of the function, for labels at
        least half the length of the objects
    halo_um : the same in um, for all axes or z, y, x, rounded up to voxels; give one of the two
    overlap : two objects of neighbouring tiles are one if each is the other's largest overlap, and the mean of the
        shares that they have of each other, in what both tiles see, is above this (`kernels.overlap`)
    min_voxels : objects of fewer voxels are dropped, after merging, and the others numbered without them
    min_volume_um3 : the same in um^3; give one of the two
    bytes_per_voxel : memory the function takes beside its input, for the plan
    """

    function: str
    output: Literal["image", "labels"]
    options: dict[str, Any] = field(default_factory=dict)
    tile: int | Triple = 128
    halo: int | Triple | None = None
    halo_um: float | tuple[float, float, float] | None = None
    overlap: float = 0.5
    min_voxels: int = 0
    min_volume_um3: float | None = None
    bytes_per_voxel: int = 64

    key: ClassVar[str] = "apply"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if min(triple(self.tile)) < 1:
            raise ConfigError(f"apply: tile {self.tile} is not positive", "Give voxels, 128 or [z, y, x]")
        self._check_halo()
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"apply: overlap {self.overlap} is not a share below 1", "Use 0.5")
        if self.min_voxels < 0 or (self.min_volume_um3 or 0) < 0 or self.bytes_per_voxel < 0:
            raise ConfigError("apply: a minimum size or bytes_per_voxel is negative", "Use 0 for none")
        if self.min_voxels and self.min_volume_um3 is not None:
            raise ConfigError("apply: min_voxels and min_volume_um3 are both given", "Keep one")
        if self.makes_image and (self.min_voxels or self.min_volume_um3):
            raise ConfigError("apply: an image has no objects of a minimum size", "Leave it out, or use output: labels")
        for name, value in self.options.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"apply: option {name} is {value!r}, which a pipeline file cannot hold ({error})",
                    "Give numbers, texts, lists or maps",
                ) from error

    def _check_halo(self) -> None:
        given = [name for name in ("halo", "halo_um") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"apply: {' and '.join(given) or 'neither halo nor halo_um'} {'are both' if given else 'is'} given",
                "Give halo in voxels, or halo_um: how far the function looks, or half the length of an object",
            )
        value = getattr(self, given[0])
        if min(value if isinstance(value, tuple) else (value,)) < 0:
            raise ConfigError(f"apply: {given[0]} {value} is negative", "Give 16 or [z, y, x], or 0 for none")

    @property
    def makes_image(self) -> bool:
        """Whether what follows sees another image."""
        return self.output == "image"

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.signal is None:
            raise ConfigError(f"apply: the input is {flow.kind}, not an image", "Leave apply out")
        behind = sorted(flow.wants & FOREGROUND)
        if behind and not self.makes_image:
            raise ConfigError(
                f"apply: {' and '.join(behind)} behind objects: nothing would look at it",
                "Leave it out, or use output: image",
            )
        function, lattice = find_function(self.function, self.key), self._lattice(flow)
        options = self._options(function, flow.scale.voxel_um)
        if self.makes_image:
            tile = ImageTile(
                array=flow.signal,
                lattice=lattice,
                function=function,
                options=options,
                bytes_per_voxel=self.bytes_per_voxel,
            )
            return _image_drafts(flow, tile)
        find = LabelTile(
            array=flow.signal,
            valid=flow.valid,
            lattice=lattice,
            function=function,
            options=options,
            bytes_per_voxel=self.bytes_per_voxel,
        )
        smallest = Label(min_voxels=self.min_voxels, min_volume_um3=self.min_volume_um3).smallest(flow.scale.voxel_um)
        return object_drafts(flow, find, threshold=self.overlap, min_voxels=smallest)

    def _options(self, function: Function, voxel_um: tuple[float, float, float]) -> dict[str, Any]:
        options = ({"voxel_um": voxel_um} if takes(function, "voxel_um") else {}) | self.options
        check_call(function, options, self.key)
        return options

    def _lattice(self, flow: Flow) -> Lattice:
        """Tiles no longer than the volume; none but one along an axis needs a halo."""
        core = triple(tuple(min(t, n) for t, n in zip(triple(self.tile), flow.lattice_shape, strict=True)))
        wanted = self._halo_vox(flow.scale.voxel_um)
        halo = triple(tuple(h if c < n else 0 for h, c, n in zip(wanted, core, flow.lattice_shape, strict=True)))
        for name, c, n, h in zip("zyx", core, flow.lattice_shape, halo, strict=True):
            if c < n and h == 0 and not self.makes_image:
                raise ConfigError(
                    f"apply: a halo of {list(wanted)} voxels leaves nothing along {name} that two tiles both see",
                    "Use half the length of an object, or a tile as long as the volume",
                )
        return Lattice(flow.shape, core, halo)

    def _halo_vox(self, voxel_um: tuple[float, float, float]) -> Triple:
        if self.halo is not None:
            return triple(self.halo)
        sides = self.halo_um if isinstance(self.halo_um, tuple) else (self.halo_um or 0.0,) * 3
        return triple(tuple(ceil(side / v - ROUNDING) for side, v in zip(sides, voxel_um, strict=True)))


def _image_drafts(flow: Flow, tile: ImageTile) -> tuple[tuple[Draft, ...], Flow]:
    """The pass that makes the image, and its exact range."""
    grid = tile.lattice.tiles
    steps = (tile, Range(array="applied", valid=flow.valid))
    name = "image" if flow.image_by == Apply.key else "applied"
    written = ArraySpec(name=name, dtype="float32", product="applied")
    made = Draft(name="apply", grid=grid, steps=steps, writes=(written,), tiled=True)
    after = replace(
        flow,
        image=name,
        image_dtype="float32",
        image_range="apply-range",
        signal=name,
        signal_dtype="float32",
        signal_range="apply-range",
    )
    return (made, range_draft(scan="apply", merge="apply-range", grid=grid)), after
