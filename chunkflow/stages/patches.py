"""Patches of a network on one lattice for the whole volume, and how large they are.

Three ways to go from patches to a volume:

    exact   the margin is as wide as the network looks, and is cut off: what one huge forward pass would give
    crop    a narrower margin, cut off: nearly that
    blend   a margin where patches overlap, averaged by Gaussian weights: for networks whose result depends on their
            patch, so that there is no huge pass to agree with

Cut off, every voxel is computed once and comes from one patch. To blend, patches are stored side by side first (see
`stages.lattice`): computing the patches on the border of two blocks in both would take more than twice the time.

Sides that nobody gave follow from the network and the volume alone, never from a machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, lcm, prod
from typing import Literal

from chunkflow.errors import ConfigError, ModelError, PlanError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import blend
from chunkflow.models.load import Model
from chunkflow.models.trace import peak_bytes, reach
from chunkflow.stages.lattice import Lattice

Mode = Literal["exact", "crop", "blend"]

SIDES = (160, 128, 96, 64, 48, 32, 16)
BUDGET = 2**30
"""Bytes of the arrays inside a network at a time, for patches whose size nobody gave."""
MOST_READ = 4.0
"""Voxels of a patch over those of its step, beyond which exactness is not chosen unless it is asked for."""
STEP_UNIT = 8
"""Steps are multiples of it where several are needed: files of a prime length would have chunks of one voxel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchLattice:
    """Patches over a volume.

    shape : of the volume that the network reads
    step, margin : voxels that a patch owns, and on each side of them (see `kernels.blend`)
    finer : voxels of the output per voxel of the input
    group : patches of one unit of work along each axis
    """

    shape: Triple
    step: Triple
    margin: Triple
    finer: Triple
    group: Triple

    @property
    def patch(self) -> Triple:
        """Voxels that the network sees at once."""
        return triple(tuple(s + 2 * m for s, m in zip(self.step, self.margin, strict=True)))

    @property
    def views(self) -> Lattice:
        """Where patches stand side by side, in voxels of the output."""
        return Lattice(_times(self.shape, self.finer), _times(self.step, self.finer), _times(self.margin, self.finer))

    @property
    def count(self) -> int:
        """Number of patches."""
        return len(self.views.tiles)

    @property
    def units(self) -> Grid:
        """The grid of the output, a group of steps a unit."""
        return Grid(self.views.shape, _times(self.views.core, self.group))

    @property
    def view_units(self) -> Grid:
        """The grid of the patches side by side, a group of them a unit."""
        views = self.views.views
        return Grid(views.shape, _times(views.core, self.group))

    def owners(self, out: Box) -> list[Triple]:
        """Positions of the patches that own voxels of a box of the output, in raster order."""
        return _positions(out, self.views.core)

    def in_view(self, out: Box) -> list[Triple]:
        """Positions of the patches in whose views a box of the array of views lies, in raster order."""
        return _positions(out, self.views.views.core)

    def touching(self, out: Box) -> Iterator[Triple]:
        """Positions of the patches that cover a voxel of a box of the output, in raster order."""
        views, counts = self.views, self.views.tiles.counts
        ranges = (
            range(max(0, (a - h) // c), min(n, -(-(b + h) // c)))
            for a, b, h, c, n in zip(out.start, out.stop, views.halo, views.core, counts, strict=True)
        )
        yield from product(*ranges)

    def start_of(self, position: Triple) -> Triple:
        """The first voxel of a patch, in the input; may be negative."""
        return triple(tuple(i * s - m for i, s, m in zip(position, self.step, self.margin, strict=True)))

    def owned(self, position: Triple) -> Box:
        """The voxels of the output that a patch owns, beyond the volume too."""
        start = _times(position, self.views.core)
        return Box(start, triple(tuple(a + c for a, c in zip(start, self.views.core, strict=True))))

    def reads(self, positions: list[Triple]) -> Box:
        """The voxels of the input that patches are cut from."""
        first, last = self.start_of(positions[0]), self.start_of(positions[-1])
        spans = [
            blend.reflected_span(a, b + p, n) for a, b, p, n in zip(first, last, self.patch, self.shape, strict=True)
        ]
        return Box(triple(tuple(a for a, _ in spans)), triple(tuple(b for _, b in spans)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchWishes:
    """What the user says of patches; None where nothing is said."""

    mode: Mode | None
    patch: Triple | None
    overlap: Triple | None
    batch: int
    square: bool


def settled(model: Model, shape: Triple, wishes: PatchWishes) -> tuple[Mode, PatchLattice]:
    """The mode and the lattice for a volume.

    Raises
    ------
    ModelError, PlanError, ConfigError : what is wished does not fit the network, or one another.
    """
    seen = reach(model)
    if wishes.mode == "exact" and seen is None:
        raise ModelError(
            "predict: mode exact, but the network's result depends on its whole patch: it takes statistics over it, as "
            "instance and group norm do, does not move with its input by whole strides, or insists on one shape",
            "Use mode: blend or crop",
        )
    if wishes.mode == "exact" and wishes.overlap is not None:
        raise ConfigError(f"predict: mode exact and overlap {list(wishes.overlap)} are both given", "Leave out overlap")
    wanted = wishes.patch or _insisted(model)
    if wishes.square:
        _check_turns(model, wishes)
    if seen is not None and wishes.overlap is None and wishes.mode in (None, "exact"):
        found = _lattice(model, shape, wishes, wanted, _squared(model, seen) if wishes.square else seen)
        if found is not None and (wishes.mode == "exact" or _reads(found) <= MOST_READ):
            return "exact", found
        if wishes.mode == "exact":
            raise PlanError(
                f"predict: patch {list(wanted or ())}, but the network looks {list(seen)} voxels to every side",
                f"Use a patch above {[2 * s for s in seen]}, or mode: crop",
            )
    mode: Mode = wishes.mode or ("blend" if seen is None else "crop")
    margin = _half(wishes.overlap, model.stride) if wishes.overlap is not None else _usual_margin(model, wanted)
    margin = _squared(model, margin) if wishes.square else margin
    chosen = _lattice(model, shape, wishes, wanted, margin)
    if chosen is None:
        raise PlanError(
            f"predict: overlap {[2 * m for m in margin]} leaves nothing of patch {list(wanted or ())}",
            "Use a larger patch, or less overlap",
        )
    return mode, chosen


def _check_turns(model: Model, wishes: PatchWishes) -> None:
    """Refuse what differs in y and x, where patches are turned."""
    sides = ("patch", wishes.patch or model.patch), ("overlap", wishes.overlap), ("a finer output of", model.upsampling)
    for name, value in sides:
        if value is not None and value[1] != value[2]:
            raise PlanError(
                f"predict: {name} {list(value)} cannot be turned in its plane",
                "Use the same in y and x, or turns: flips",
            )


def _squared(model: Model, margin: Triple) -> Triple:
    """The margin with the larger of its two sides in the plane, in whole strides of both."""
    unit = lcm(*model.stride[1:])
    side = -(-max(margin[1:]) // unit) * unit
    return margin[0], side, side


def check_patch(model: Model, patch: Triple) -> None:
    """Refuse a patch that the network cannot take.

    Raises
    ------
    PlanError : names the nearest that it can.
    """
    near = triple(tuple(max(s, round(p / s) * s) for p, s in zip(patch, model.stride, strict=True)))
    if near != patch:
        raise PlanError(
            f"predict: patch {list(patch)} is not a multiple of the network's stride {list(model.stride)}",
            f"Use {list(near)}",
        )
    if any(fixed not in (None, p) for fixed, p in zip(model.patch, patch, strict=True)):
        raise PlanError(f"predict: patch {list(patch)}, but the network takes {list(model.patch)} alone", "Use that")
    if any(p < least for p, least in zip(patch, model.patch_min, strict=True)):
        raise PlanError(f"predict: patch {list(patch)} is below the network's {list(model.patch_min)}", "Use that")


def _insisted(model: Model) -> Triple | None:
    """The patch of a network that takes one alone."""
    if None in model.patch:
        return None
    z, y, x = (side or 1 for side in model.patch)
    return z, y, x


def _half(overlap: Triple, stride: Triple) -> Triple:
    unit = [2 * s for s in stride]
    if any(o % u for o, u in zip(overlap, unit, strict=True)):
        near = [round(o / u) * u for o, u in zip(overlap, unit, strict=True)]
        raise PlanError(
            f"predict: overlap {list(overlap)} is not a multiple of {unit}, twice the network's stride", f"Use {near}"
        )
    return triple(tuple(o // 2 for o in overlap))


def _usual_margin(model: Model, patch: Triple | None) -> Triple:
    """What the network's makers would cut away, else an eighth of the patch: an overlap of a quarter; whole strides."""
    if model.halo is not None:
        return triple(tuple(-(-h // s) * s for h, s in zip(model.halo, model.stride, strict=True)))
    usual = patch or tuple(side or 128 for side in model.patch)
    sides = zip(usual, model.stride, strict=True)
    return triple(tuple(0 if p <= s else -(-p // (8 * s)) * s for p, s in sides))


def _lattice(
    model: Model, shape: Triple, wishes: PatchWishes, patch: Triple | None, margin: Triple
) -> PatchLattice | None:
    """The lattice with that margin; None where it leaves nothing of the patch."""
    if patch is not None:
        check_patch(model, patch)
        step = triple(tuple(p - 2 * m for p, m in zip(patch, margin, strict=True)))
        return _grouped(model, shape, step, margin, wishes.batch) if min(step) > 0 else None
    for side in SIDES:
        step = _steps(model, shape, side, margin, wishes.square)
        if min(step) <= 0:
            return None
        found = _grouped(model, shape, step, margin, wishes.batch)
        if peak_bytes(model, found.patch, batch=wishes.batch, margin=margin, whole=False) <= BUDGET:
            break
    return found


def _steps(model: Model, shape: Triple, side: int, margin: Triple, square: bool) -> Triple:
    """Equal steps of about `side` voxels that cover the volume; what is left of sides that the network insists on."""
    steps = []
    for n, stride, least in zip(shape, model.stride, model.patch_min, strict=True):
        count = -(-n // side)
        unit = stride if count == 1 else lcm(stride, STEP_UNIT)
        steps.append(max(ceil(n / count / unit) * unit, least))
    if square:
        unit = lcm(*model.stride[1:])
        steps[1] = steps[2] = -(-max(steps[1:]) // unit) * unit
    insisted = zip(steps, model.patch, margin, strict=True)
    return triple(tuple(step if fixed is None else fixed - 2 * m for step, fixed, m in insisted))


def _grouped(model: Model, shape: Triple, step: Triple, margin: Triple, batch: int) -> PatchLattice:
    """Patches of one forward pass side by side: as many as there are, as nearly a cube as that allows."""
    z, y, x = (-(-n // s) for n, s in zip(shape, step, strict=True))
    fitting = [
        (a, b, min(x, batch // (a * b))) for a in range(1, min(batch, z) + 1) for b in range(1, min(batch // a, y) + 1)
    ]
    group = max(fitting, key=lambda g: (prod(g), -max(g), g[::-1]))
    return PatchLattice(shape=shape, step=step, margin=margin, finer=model.upsampling, group=group)


def _reads(lattice: PatchLattice) -> float:
    return prod(lattice.patch) / prod(lattice.step)


def _times(a: Triple, b: Triple) -> Triple:
    return triple(tuple(p * q for p, q in zip(a, b, strict=True)))


def _positions(box: Box, core: Triple) -> list[Triple]:
    ranges = (range(a // c, -(-b // c)) for a, b, c in zip(box.start, box.stop, core, strict=True))
    return [triple(position) for position in product(*ranges)]
