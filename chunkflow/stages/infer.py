"""The steps of a network: patches through it, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any, ClassVar, Literal

from chunkflow.backend import array_module
from chunkflow.errors import ModelError
from chunkflow.geometry.box import Box, Triple
from chunkflow.kernels import blend
from chunkflow.models import load
from chunkflow.models.predict import Application, predict, prepared
from chunkflow.models.usage import Normalization
from chunkflow.stages.base import Output, Region, View
from chunkflow.stages.normalize import normalized
from chunkflow.stages.patches import Mode, PatchLattice

GPU_GIB = 16
"""Of the GPU for which a batch is named; others in proportion."""
LIBRARY_BYTES = 160 * 2**20
"""What convolutions take beside the arrays that torch knows of: 100 to 140 MiB measured on a CPU (oneDNN)."""

Kind = Literal["one", "mean", "rest", "largest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """An array made of outputs of the network.

    kind : "one" output; the "mean" of some, or the "rest" of it to 1; the number of the "largest"
    channels : which, as positions among those that the network is asked for
    """

    name: str
    kind: Kind
    channels: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return "uint8" if self.kind == "largest" else "float32"

    def of(self, outputs: Sequence[Any]) -> Any:
        """The array, from those of the outputs."""
        xp = array_module(outputs[0])
        if self.kind == "one":
            return outputs[self.channels[0]]
        if self.kind == "largest":
            return xp.argmax(xp.stack([outputs[c] for c in self.channels]), axis=0).astype(xp.uint8)
        total = sum(outputs[c] for c in self.channels[1:]) + outputs[self.channels[0]]
        mean = total * xp.float32(1 / len(self.channels))
        return mean if self.kind == "mean" else xp.float32(1) - mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network file, and how it is applied to arrays of the flow.

    arrays : the image, or the channels that the network sees, in its order, on one grid
    at_hand : from its path to a file of this machine
    scale : the merge that holds the numbers of the normalization, where it needs some
    peak_bytes, device_peak_bytes : of one forward pass, on a CPU and on a GPU, for the plan
    """

    path: str = field(metadata={"fingerprint": False})  # its digest says what it is
    digest: str
    trust: str | None = field(metadata={"fingerprint": False})
    arrays: tuple[str, ...]
    how: Application
    compiled: bool
    normalization: Normalization
    scale: str
    peak_bytes: int = field(metadata={"fingerprint": False})
    device_peak_bytes: int = field(metadata={"fingerprint": False})
    at_hand: Callable[[str], str] = field(default=str, metadata={"fingerprint": False})

    def outputs(self, view: View, lattice: PatchLattice, at: Sequence[Triple]) -> Iterator[tuple[Triple, Any]]:
        """Each patch by its position, with its outputs (channels, Z', Y', X'); a batch is computed at a time."""
        start, images = self._seen(view)
        model = _model(self.at_hand(self.path), self.digest, self.trust, view.device, self.compiled)
        for first in range(0, len(at), self.how.batch):
            group = at[first : first + self.how.batch]
            xp = array_module(images[0])
            patches = xp.empty((len(group), len(images), *lattice.patch), xp.float32)
            for patch, position in zip(patches, group, strict=True):
                for out, image in zip(patch, images, strict=True):
                    blend.cut_patch(image, start, lattice.start_of(position), lattice.patch, lattice.shape, out=out)
            yield from zip(group, predict(model, patches, self.how), strict=True)

    def reads(self, box: Box) -> dict[str, Box]:
        """The same voxels of every channel."""
        return dict.fromkeys(self.arrays, box)

    def _seen(self, view: View) -> tuple[Triple, list[Any]]:
        """Where what was read begins, and every channel of it as the network takes it."""
        found = view.values.get(self.scale)
        regions = [view.regions[name] for name in self.arrays]
        images = [normalized(r.data, self.normalization, found, channel) for channel, r in enumerate(regions)]
        return regions[0].box.start, images

    def working_bytes(self, lattice: PatchLattice, patches: int, *, on_device: bool = False) -> int:
        """Of that many patches, of which a batch is in the network at a time."""
        voxels = prod(lattice.patch) * len(self.arrays)
        outputs = prod(lattice.step) * prod(lattice.finer) * len(self.how.channels)
        inside = self.device_peak_bytes if on_device else self.peak_bytes
        return inside + LIBRARY_BYTES + 4 * (patches * voxels + self.how.batch * (2 * voxels + 2 * outputs))


@lru_cache(maxsize=2)
def _model(path: str, digest: str, trust: str | None, device: str, compiled: bool) -> load.Model:
    """The network, once per process. A file that changed since the plan is refused."""
    found = load.digest_of(path)
    if found != digest:
        raise ModelError(f"the network {path} is not the one the run was planned with", "Plan the run again")
    return prepared(load.load_model(path, device=device, trust=trust), compiled=compiled)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferCores:
    """Products over the steps of a group of patches, without their margins."""

    network: Network
    lattice: PatchLattice
    products: tuple[Product, ...]

    version: ClassVar[int] = 3
    on_device: ClassVar[bool] = True

    @property
    def produces(self) -> tuple[str, ...]:
        return tuple(product.name for product in self.products)

    def reads(self, out: Box) -> Mapping[str, Box]:
        return self.network.reads(self.lattice.reads(self.lattice.owners(out)))

    def run(self, view: View, out: Box) -> Output:
        xp = array_module(view.regions[self.network.arrays[0]].data)
        arrays = {product.name: xp.zeros(out.shape, product.dtype) for product in self.products}
        for position, outputs in self.network.outputs(view, self.lattice, self.lattice.owners(out)):
            owned = self.lattice.owned(position)
            there = owned.clip(out)
            inner = there.relative_to(owned.start).slices
            for product in self.products:
                arrays[product.name][there.relative_to(out.start).slices] = product.of(outputs)[inner]
        return Output(arrays=arrays)

    def working_bytes(self, out: Triple) -> int:
        return self.network.working_bytes(self.lattice, prod(self.lattice.group))

    def device_working_bytes(self, out: Triple) -> int:
        return self.network.working_bytes(self.lattice, prod(self.lattice.group), on_device=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferViews:
    """Outputs of whole patches, side by side."""

    network: Network
    lattice: PatchLattice

    version: ClassVar[int] = 2
    on_device: ClassVar[bool] = True

    @property
    def produces(self) -> tuple[str, ...]:
        return tuple(map(view_name, range(len(self.network.how.channels))))

    def reads(self, out: Box) -> Mapping[str, Box]:
        return self.network.reads(self.lattice.reads(self.lattice.in_view(out)))

    def run(self, view: View, out: Box) -> Output:
        views, lattice = self.lattice.views, self.lattice
        xp = array_module(view.regions[self.network.arrays[0]].data)
        arrays = {name: xp.zeros(out.shape, xp.float32) for name in self.produces}
        for position, outputs in self.network.outputs(view, lattice, lattice.in_view(out)):
            tile = views.tiles.index(position)
            seen = views.seen(tile)
            there = views.place(tile, seen).relative_to(out.start).slices
            inner = seen.relative_to(lattice.owned(position).grow(views.halo).start).slices
            for name, output in zip(self.produces, outputs, strict=True):
                arrays[name][there] = output[inner]
        return Output(arrays=arrays)

    def working_bytes(self, out: Triple) -> int:
        return self.network.working_bytes(self.lattice, prod(self.lattice.group))

    def device_working_bytes(self, out: Triple) -> int:
        return self.network.working_bytes(self.lattice, prod(self.lattice.group), on_device=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendViews:
    """Products from outputs that overlap, as their mean by Gaussian weights."""

    lattice: PatchLattice
    channels: int
    products: tuple[Product, ...]

    version: ClassVar[int] = 1
    on_device: ClassVar[bool] = True

    @property
    def produces(self) -> tuple[str, ...]:
        return tuple(product.name for product in self.products)

    def reads(self, out: Box) -> Mapping[str, Box]:
        views = self.lattice.views
        positions = list(self.lattice.touching(out))
        first, last = (views.tiles.index(p) for p in (positions[0], positions[-1]))
        start, stop = (views.place(tile, views.seen(tile).clip(out)) for tile in (first, last))
        return dict.fromkeys(map(view_name, range(self.channels)), Box(start.start, stop.stop))

    def run(self, view: View, out: Box) -> Output:
        blended = [self._blended(view.regions[view_name(channel)], out) for channel in range(self.channels)]
        return Output(arrays={product.name: product.of(blended) for product in self.products})

    def _blended(self, region: Region, out: Box) -> Any:
        xp, views = array_module(region.data), self.lattice.views
        weights = xp.asarray(blend.gaussian_weights(_grown(views.core, views.halo)))
        total, norm = xp.zeros(out.shape, xp.float32), xp.zeros(out.shape, xp.float32)
        for position in self.lattice.touching(out):
            tile = views.tiles.index(position)
            there = views.seen(tile).clip(out)
            here = there.relative_to(self.lattice.owned(position).grow(views.halo).start).slices
            blend.accumulate(
                total,
                norm,
                region.cut(views.place(tile, there)),
                weights[here],
                core_start=out.start,
                patch_start=there.start,
            )
        return total / norm

    def working_bytes(self, out: Triple) -> int:
        views = self.lattice.views
        return 4 * (2 * prod(_grown(views.core, views.halo)) + (self.channels + 3) * prod(out))


def facts_of(network: Network, lattice: PatchLattice, mode: Mode, channels: Sequence[str] = ()) -> dict[str, Any]:
    """What was settled of a network, for people and for the plan as JSON; channels : those it sees, of several."""
    return {
        "path": network.path,
        "digest": network.digest,
        "channels": list(channels),
        "mode": mode,
        "patch": list(lattice.patch),
        "margin": list(lattice.margin),
        "patches": lattice.count,
        "batch": network.how.batch,
        "batch_bytes": network.peak_bytes,
        "device_batch_bytes": network.device_peak_bytes,
    }


def described(facts: Mapping[str, Any]) -> str:
    """One sentence of `facts_of`; the batch for a GPU leaves a fifth of its memory to all else."""
    patch, margin = (" x ".join(map(str, facts[name])) for name in ("patch", "margin"))
    fitting = int(0.8 * GPU_GIB * 2**30 * facts["batch"] / facts["device_batch_bytes"])
    sees = f"sees channels {', '.join(facts['channels'])}; " if facts.get("channels") else ""
    return (
        f"{sees}{facts['mode']}, {facts['patches']} patches of {patch} voxels with margins of {margin}; a batch of "
        f"{facts['batch']} takes {facts['batch_bytes'] / 2**20:.0f} MiB"
        + (f", {GPU_GIB} GiB of a GPU would take batch: {fitting}" if fitting > facts["batch"] else "")
    )


def view_name(channel: int) -> str:
    """The array in which an output of every patch stands side by side."""
    return f"patches-{channel}"


def _grown(core: Triple, halo: Triple) -> Triple:
    z, y, x = (c + 2 * h for c, h in zip(core, halo, strict=True))
    return z, y, x
