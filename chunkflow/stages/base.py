"""The words stages are written in: regions, views, steps, drafts and the flow between stages.

A stage turns the flow that reaches it into drafts of passes and the flow that leaves it:

    Flow --Deconvolve--> Flow --Threshold--> Flow --Label--> ...
              |                    |                |
           Draft(tiles)   Draft, merge draft   Draft, Draft(seams), merge, Draft

A draft is a visit of every block of one grid by a chain of block steps, or one merge over the records that such
visits left. Steps say which voxels they need for a given output (`reads`), so the boxes of a whole chain follow
from its last output, back to front: each step computes exactly what the next one asks for.

    core <- step 3 <- step 2 <- step 1 <- arrays read

To add a stage: write its steps as pure functions of a `View`, a dataclass with `drafts(flow)`, and register it in
`chunkflow.stages.registry`; `chunkflow.testing` checks that its blocks equal the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import to_host
from chunkflow.errors import IntegrityError
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.geometry.scale import Scale
from chunkflow.kernels import resample
from chunkflow.kernels.union import Shelf

Record = Mapping[str, NDArray[Any]]
"""Small arrays that one unit leaves for a merge, by name."""


@dataclass(frozen=True, slots=True)
class Region:
    """An array and the box of global voxels it covers. `data` is numpy or cupy, shape `box.shape`."""

    box: Box
    data: Any

    def cut(self, box: Box) -> Any:
        """The part of the array in `box` (a view).

        Raises
        ------
        IntegrityError : `box` is not inside; a step asked for less than it looks at.
        """
        if not self.box.contains(box):
            raise IntegrityError(f"voxels {box} were asked of a region that covers {self.box}")
        return self.data[box.relative_to(self.box.start).slices]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a block step may look at.

    block : index of the block on its grid
    core : the voxels this block alone writes
    grid : the grid of the pass
    regions : arrays at hand, by name: read from storage or produced by earlier steps of the pass
    values : what the passes named in `Draft.needs` left: merged values and this block's part of them
    records : records of the same block (and, for seams, of others) left by the passes in `Draft.needs`
    device : "cpu" or "gpu"
    """

    block: int
    core: Box
    grid: Grid
    regions: Mapping[str, Region]
    values: Mapping[str, Record]
    records: Mapping[str, Sequence[Record]]
    device: str = "cpu"

    @property
    def shape(self) -> Triple:
        """Shape of the whole volume on the grid of this pass."""
        return self.grid.shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a block step returns: arrays over the box asked for, and a record."""

    arrays: Mapping[str, Any] = field(default_factory=dict)
    record: Record = field(default_factory=dict)


class BlockStep(Protocol):
    """A pure function of one block. Frozen dataclass; its fields are its parameters."""

    version: ClassVar[int]
    on_device: ClassVar[bool]  # runs on cupy arrays as on numpy arrays; others move what they need to the host

    @property
    def produces(self) -> tuple[str, ...]:
        """Names of the arrays it makes."""

    def reads(self, out: Box) -> Mapping[str, Box]:
        """Voxels needed per array to compute `out`, before clipping to the arrays."""

    def run(self, view: View, out: Box) -> Output:
        """Compute the arrays in `produces` over `out`."""

    def working_bytes(self, out: Triple) -> int:
        """Peak bytes a call for an output of that shape needs, its inputs and outputs aside."""


@runtime_checkable
class OtherOnDevice(Protocol):
    """A block step that needs other memory on a GPU than on the host."""

    def device_working_bytes(self, out: Triple) -> int:
        """As `BlockStep.working_bytes`, of the GPU's memory."""


@runtime_checkable
class Idler(Protocol):
    """A block step, alone in its pass, that may know from merged values that nobody wants what it makes."""

    def is_idle(self, values: Mapping[str, Record], core: Box) -> bool:
        """Whether a block's arrays may stay empty; nothing is read for it then."""


def is_idle(steps: Sequence[BlockStep], values: Callable[[], Mapping[str, Record]], core: Box) -> bool:
    """Whether nobody wants what a block would leave (see `Idler`); values are asked for where a step looks at them."""
    return len(steps) == 1 and isinstance(steps[0], Idler) and steps[0].is_idle(values(), core)


@runtime_checkable
class Uneven(Protocol):
    """A block step of which a few blocks cost far more than the others."""

    def comes_first(self, core: Box) -> bool:
        """Whether a block is one of those, which go out before the others, each to another worker."""

    def count_first(self) -> int:
        """How many those are."""


def in_order(steps: Sequence[BlockStep], units: Sequence[int], grid: Grid) -> Sequence[int]:
    """Units of a pass in the order in which they go out."""
    uneven = [step for step in steps if isinstance(step, Uneven)]
    if not uneven:
        return units
    return sorted(units, key=lambda unit: not any(step.comes_first(grid.core_of(unit)) for step in uneven))


@runtime_checkable
class Sparer(Protocol):
    """A block step that may know from merged values that it can do without an array that it reads."""

    def spares(self, values: Mapping[str, Record], block: int) -> frozenset[str]:
        """Arrays that `run` of a block does without: they are not in its view then."""

    def reads(self, out: Box) -> Mapping[str, Box]:
        """See `BlockStep`."""


def spared(steps: Sequence[BlockStep], values: Callable[[], Mapping[str, Record]], block: int) -> frozenset[str]:
    """Arrays that all steps which read them do without in a block."""
    if not any(isinstance(step, Sparer) for step in steps):
        return frozenset()
    known, anywhere = values(), Box((0, 0, 0), (1, 1, 1))
    read = [frozenset(step.reads(anywhere)) for step in steps]
    less = [step.spares(known, block) if isinstance(step, Sparer) else frozenset() for step in steps]
    return frozenset().union(*less) - frozenset().union(*(r - s for r, s in zip(read, less, strict=True)))


class MergeStep(Protocol):
    """A pure function of all records, in block order. Runs once, as a unit of its own."""

    version: ClassVar[int]

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        """Merge the records of the passes in `Draft.needs`."""

    def working_bytes(self, blocks: int) -> int:
        """Peak bytes of the merge over that many blocks, as far as can be said before."""


class ShelvingMerge(Protocol):
    """A merge of more than a worker holds: it puts down what it does not need at the time."""

    version: ClassVar[int]
    shelves: ClassVar[bool]  # True

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record], shelf: Shelf) -> Merged:
        """Merge the records of the passes in `Draft.needs`; the shelf is gone once the parts are taken."""

    def working_bytes(self, blocks: int) -> int:
        """As in `MergeStep`."""


@dataclass(frozen=True, slots=True)
class Merged:
    """Result of a merge: values for everybody, and parts of which each block is given its own."""

    values: Record
    parts: Iterable[tuple[int, Record]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """An array that a pass writes, on that pass's grid.

    name : its name in the flow; unique in a plan
    dtype : numpy name, or "labels": the smallest of uint16, uint32 and uint64 that holds the number of objects
    product : the name of the step's product that is written here (default: the same)
    """

    name: str
    dtype: str
    product: str = ""

    @property
    def source(self) -> str:
        return self.product or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A pass before it is settled: block steps on a grid, or a merge.

    needs : passes whose records or merged values the steps look at
    constants : small arrays fixed by the plan (a PSF), given to steps as `values[""]`
    tiled : the grid is a lattice of the pipeline, not of the blocks
    """

    name: str
    grid: Grid
    steps: tuple[BlockStep, ...] = ()
    merge: MergeStep | ShelvingMerge | None = None
    writes: tuple[ArraySpec, ...] = ()
    needs: tuple[str, ...] = ()
    constants: Record = field(default_factory=dict)
    tiled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelImage:
    """Another channel of the input, or one of an image on the input's grid.

    array : the name it is read by
    dtype : of its voxels
    name : in the names of columns; of the image that is measured instead of the input, its own
    """

    array: str
    dtype: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionImage:
    """Parent regions on the input's grid.

    array : the name that the label image is read by, "" where the regions are polygons
    polygons : fields of `kernels.polygons.Polygons`, empty where they are a label image
    names : of the regions 1, 2 ..., empty where they have none
    """

    array: str = ""
    polygons: Record = field(default_factory=dict)
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What one stage hands to the next.

    kind : "image", "mask" or "labels", as the input says
    shape, scale : the grid the data is on now; input_shape, input_scale, input_dtype : those of the input
    block : nominal core of the blocks
    nodata, has_mask : how voxels of the input are excluded
    resampling : how the present grid follows from the input's, None while it is the input's
    image, image_dtype, image_range : the array that `image` is saved from, None for masks and labels; the merge that
        holds its exact range
    signal, signal_dtype, signal_range : the array a threshold looks at, and the merge that holds its exact range
    valid : name of the array that marks usable voxels (see `stages.scan`), None if all are
    mask_steps, mask_needs : steps that make "mask" from stored arrays, once a stage has decided what foreground is
    labels, filled : names of the final labels, and of those with cavities filled
    input_range : the merge that holds the exact range of the input
    euler : the pass that records Euler characteristics; graph : the merge that holds the graph
    save : names of the arrays the user keeps; wants : keys of all stages of the pipeline
    image_by : the last stage that makes the image (`makes_image`), whose array is named "image"; "" where none does
    expansion : how many times the specimen was swollen; scales are those of the specimen before that
    channel, channel_number, optics : which channel of the image it is, and what the image's metadata says of its
        optics (see `storage.volume`)
    reliefs : arrays by what a network says they are, "borders" or "distances"
    finer : voxels per voxel of the grid that `resampling` and the input lead to, where a network made it finer
    measured, channels, regions : what `measure` names beside the input; network_channels : what a network of several
        sees, in its order
    at_hand : from a file that a stage names to one of this machine: a copy, where it lies in an object store; pickles
    facts : what stages decided while planning, for people; warnings : sentences for the user
    origin, whole : of a region, where its voxel 0 lies in the whole volume on the present grid, and that volume's shape
    is_anchored : whether tiles of the region are those of the whole volume, at whose multiples it begins
    """

    kind: str
    shape: Triple
    scale: Scale
    input_shape: Triple
    input_scale: Scale
    input_dtype: str
    block: Triple
    save: frozenset[str]
    wants: frozenset[str]
    image_by: str = ""
    nodata: float | None = None
    has_mask: bool = False
    resampling: Resampling | None = None
    image: str | None = None
    image_dtype: str = ""
    image_range: str = ""
    signal: str | None = None
    signal_dtype: str = ""
    signal_range: str = ""
    input_range: str = ""
    valid: str | None = None
    mask_steps: tuple[BlockStep, ...] = ()
    mask_needs: tuple[str, ...] = ()
    labels: str | None = None
    filled: str | None = None
    euler: str = ""
    graph: str = ""
    expansion: float = 1.0
    channel: str = ""
    channel_number: int = 0
    optics: Mapping[str, Any] = field(default_factory=dict)
    reliefs: Mapping[str, str] = field(default_factory=dict)
    finer: Triple = (1, 1, 1)
    measured: ChannelImage | None = None
    channels: tuple[ChannelImage, ...] = ()
    regions: RegionImage | None = None
    network_channels: tuple[ChannelImage, ...] = ()
    at_hand: Callable[[str], str] = str
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    origin: Triple = (0, 0, 0)
    whole: Triple | None = None
    is_anchored: bool = False

    @property
    def lattice_shape(self) -> Triple:
        """Shape of the volume that the sizes of tiles follow from."""
        return self.whole if self.is_anchored and self.whole is not None else self.shape

    @property
    def optical_um(self) -> tuple[float, float, float]:
        """The voxel size as the microscope saw it."""
        z, y, x = self.scale.voxel_um
        return z * self.expansion, y * self.expansion, x * self.expansion

    @property
    def grid(self) -> Grid:
        """The blocks over the present shape."""
        return Grid(self.shape, self.block)


@dataclass(frozen=True, slots=True)
class Resampling:
    """From the grid of the input to another of the same field of view (see `kernels.resample`)."""

    shape_in: Triple
    voxel_in: tuple[float, float, float]
    voxel_out: tuple[float, float, float]

    def source(self, box: Box) -> Box:
        """The input voxels that output voxels in `box` are made of."""
        start, stop = resample.source_box(box.start, box.stop, self.shape_in, self.voxel_in, self.voxel_out)
        return Box(start, stop)


class Stage(Protocol):
    """What the user names. Frozen keyword-only dataclass of parameters, checked in `__post_init__`."""

    key: ClassVar[str]

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        """Passes of this stage on the flow that reaches it, and the flow that leaves it."""


def boxes_of_chain(
    steps: Sequence[BlockStep], core: Box, volume: Box, writes: Iterable[str]
) -> tuple[list[Box], dict[str, Box]]:
    """Output box of each step and the boxes to read from storage, so that the chain yields `core`.

    Goes back to front: what a step produces must cover what later steps ask of it, inside the volume; a step nobody
    asks gets `core`. The boxes to read are not clipped: their arrays may lie on another grid.
    """
    wanted: dict[str, Box] = dict.fromkeys(writes, core)
    outs: list[Box] = []
    for step in reversed(steps):
        asked = [wanted.pop(name).clip(volume) for name in step.produces if name in wanted]
        out = hull([core, *asked])
        outs.append(out)
        for name, box in step.reads(out).items():
            wanted[name] = hull([wanted[name], box]) if name in wanted else box
    return outs[::-1], wanted


def hull(boxes: Sequence[Box]) -> Box:
    """The smallest box that contains all of them."""
    return Box(
        (min(b.start[0] for b in boxes), min(b.start[1] for b in boxes), min(b.start[2] for b in boxes)),
        (max(b.stop[0] for b in boxes), max(b.stop[1] for b in boxes), max(b.stop[2] for b in boxes)),
    )


def host(array: Any) -> NDArray[Any]:
    """`array` in host memory, contiguous: for kernels written for the CPU."""
    return np.ascontiguousarray(to_host(array))


def table_of(record: Record, table: str) -> dict[str, NDArray[Any]]:
    """The columns of one of the tables in a record, which names them "table.column"."""
    start = table + "."
    return {name[len(start) :]: column for name, column in record.items() if name.startswith(start)}


TABLE_PARTS = "parts"
"""The value of a merge whose parts, from 0 on, are those of a table, one after the other."""


def table_parts(count: int) -> Record:
    """The values of such a merge: how many parts there are."""
    return {TABLE_PARTS: np.array([count], np.int64)}


def iterate(records: Sequence[Record]) -> Iterator[Record]:
    """Records one at a time, so that a merge holds one of them."""
    return (records[index] for index in range(len(records)))
