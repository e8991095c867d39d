"""A network over the whole volume: patches on one lattice, fixed weights, so that blocks change nothing.

    predict-channels    of a network of several channels: see `stages.predict_channels`
    predict-histogram   counts of grey values                      -> predict-scale: offset and scale of the volume
    predict-patches     where patches are blended: outputs of whole patches, side by side
    predict             patches of the lattice -> what the user wants of the outputs -> predict-range

What the network's own file says of its use (`models.usage`) fills in what the user leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

from chunkflow.backend import array_module
from chunkflow.errors import ConfigError, ModelError, nearest
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.scale import Scale
from chunkflow.models import load
from chunkflow.models.predict import Application
from chunkflow.models.trace import peak_bytes, reach, repeats
from chunkflow.models.usage import Normalization
from chunkflow.stages.base import ArraySpec, BlockStep, Draft, Flow, Output, View
from chunkflow.stages.infer import BlendViews, InferCores, InferViews, Network, Product, facts_of
from chunkflow.stages.normalize import scale_drafts
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.patches import Mode, PatchLattice, PatchWishes, settled
from chunkflow.stages.predict_channels import Channel, channel_drafts, chosen_channels
from chunkflow.stages.scan import DATA, INSIDE, Range, range_draft
from chunkflow.stages.threshold import Above

MODELS = Path(load.__file__).parent / "weights"
"""Networks that come with the package; a bare name that is one of theirs means it."""
Wanted = tuple[int, str]
"""An output of the network, and what makes results of it."""
OTHER_SIZE = 0.1
"""Of the voxel size that a network was trained for: beyond it the user is told."""
RELIEFS = {"borders": "predicted-borders", "distances": "predicted-distances"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict:
    """What a network says of every voxel.

    path : a network that `chunkflow.models.load` reads, or the URL of one, or the name of one that comes with the
        package
    trust : SHA-256 of a pickled module that may run its code; others are refused
    output : "probability" of `channel`; "classes": the number of the largest output, 0 being background; "image":
        what `channel` gives is the image from here on (restoration, label-free prediction, super-resolution)
    channel : which output of the network, by number or by name
    channels : of the image, by number or by name, that the network sees, in the order of its training, raw; by default
        all, if it takes several and as many as there are, or what stages before made of the input's channel
    foreground : with classes, those that count as foreground; all but 0 by default
    borders, distances : outputs that `instances` floods, `on: predicted-borders` or `on: predicted-distances`; of
        several border channels the mean
    affinities : outputs that say which neighbours belong together; 1 minus their mean is the borders
    mode : "exact", "crop" or "blend", see `stages.patches`; by default exact where the network looks no farther than
        that is affordable, blend where its result depends on the patch, else crop
    patch : voxels that the network sees at once; by default what fits a GiB of arrays inside the network
    overlap : voxels that neighbouring patches share, with crop and blend; by default a quarter of the patch
    batch : patches per forward pass; part of the result, since another size changes the last bits
    activation : what turns outputs into results: "sigmoid", "softmax", "none"; by default what the network's file says
    normalization : of grey values, see `models.usage.Normalization`; by default what the network's file says
    turns : the mean over several ways to look at a patch: "flips", "plane" (flips and quarter turns in it) or "all"
    precision : "bfloat16" or "float16" for quicker and less exact products, where the device has them
    compiled : let torch compile the network first
    threshold : foreground is above it, or of a distance below it; null leaves that to a threshold stage; by default
        what the network's file says, or 0.5
    """

    path: str
    trust: str | None = None
    output: Literal["probability", "classes", "image"] = "probability"
    channel: Channel = 0
    channels: tuple[Channel, ...] | None = None
    foreground: tuple[int, ...] | None = None
    borders: Channel | tuple[Channel, ...] | None = None
    distances: Channel | None = None
    affinities: tuple[Channel, ...] | None = None
    mode: Literal["auto", "exact", "crop", "blend"] = "auto"
    patch: int | Triple | Literal["auto"] = "auto"
    overlap: int | Triple | Literal["auto"] = "auto"
    batch: int = 1
    activation: Literal["auto", "sigmoid", "softmax", "none"] = "auto"
    normalization: Normalization | None = None
    turns: Literal["none", "flips", "plane", "all"] = "none"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compiled: bool = False
    threshold: float | Literal["auto"] | None = "auto"

    key: ClassVar[str] = "predict"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if self.batch < 1:
            raise ConfigError(f"predict: batch {self.batch} is not a number of patches", "Use 1 or more")
        for name in ("patch", "overlap"):
            value = getattr(self, name)
            if value != "auto" and min(triple(value)) < (1 if name == "patch" else 0):
                raise ConfigError(f"predict: {name} {value} is too small", "Give voxels, or auto")
        if self.foreground is not None and (self.output != "classes" or not self.foreground):
            raise ConfigError(f"predict: foreground {self.foreground} names no classes", "Use it with output: classes")
        if self.borders is not None and self.affinities is not None:
            raise ConfigError("predict: borders and affinities are both given", "Keep one")
        if self.affinities is not None and self.turns != "none":
            raise ConfigError(
                f"predict: turns {self.turns} with affinities, whose channels would have to turn too", "Use none"
            )
        if self.output != "probability" and self.threshold not in ("auto", None):
            raise ConfigError(f"predict: threshold {self.threshold} with output {self.output}", "Leave it out")

    @property
    def makes_image(self) -> bool:
        """Whether what follows sees another image."""
        return self.output == "image"

    @property
    def says_foreground(self) -> bool:
        """Whether it says by itself what foreground is, so that no threshold may follow."""
        return self.output == "classes" or self.threshold not in ("auto", None)

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.signal is None:
            raise ConfigError(f"predict: the input is {flow.kind}, not an image", "Leave predict out")
        path, model = packaged(self.path), self._model(flow.at_hand)
        if model.in_channels != (len(flow.network_channels) or 1):
            raise ModelError(
                f"predict: the network takes {model.in_channels} channels, and sees one",
                "Use an image with as many channels, or a network of one",
            )
        if not repeats(model):
            raise ModelError(
                f"predict: {self.path} gives the same patch other results each time: it draws numbers or counts calls",
                "Export it in evaluation mode, without dropout or noise",
            )
        products, outputs = self._products(model)
        activations = tuple(name for _, name in outputs)
        mode, lattice = settled(model, flow.lattice_shape, self._wishes())
        lattice = replace(lattice, shape=flow.shape)
        how = Application(
            activation=activations[0],
            activations=activations if len(set(activations)) > 1 else (),
            channels=tuple(number for number, _ in outputs),
            batch=self.batch,
            margin=lattice.margin if mode != "blend" else (0, 0, 0),
            turns=self.turns,
            precision=self.precision,
        )
        normalization = self.normalization or model.usage.normalization
        before, arrays = _read_by(flow, normalization)
        needs = tuple(draft.name for draft in before[-1:] if draft.merge)
        network = Network(
            path=path,
            at_hand=flow.at_hand,
            digest=model.digest,
            trust=self.trust,
            arrays=arrays,
            how=how,
            compiled=self.compiled,
            normalization=normalization,
            scale=needs[0] if needs else "",
            peak_bytes=peak_bytes(model, lattice.patch, batch=self.batch, margin=how.margin, whole=self.compiled),
            device_peak_bytes=peak_bytes(model, lattice.patch, batch=self.batch, margin=how.margin, whole=True),
        )
        named = self._after(flow, model, lattice)
        passes = _passes(named, network, lattice, mode, products, needs=needs)
        names = [channel.name for channel in flow.network_channels]
        known = facts_of(network, lattice, mode, names) | {"threshold": self._value(flow, model)}
        facts, warnings = {**flow.facts, "network": known}, (*flow.warnings, *_warnings(flow, model))
        return (*before, *passes), replace(self._segmented(named, model), facts=facts, warnings=warnings)

    def channels_of(self, names: Sequence[str], *, at_hand: Callable[[str], str] = str) -> tuple[Channel, ...]:
        """The channels of an image that the network sees, in its order; none where it sees what reaches the stage.

        names : of the image's channels, "" where one has none; at_hand : as in `Flow`

        Raises
        ------
        ModelError, ConfigError : there is no such network, or it takes another number of channels.
        """
        return chosen_channels(self._model(at_hand), self.channels, names)

    def _model(self, at_hand: Callable[[str], str]) -> load.Model:
        path = at_hand(packaged(self.path))
        return _loaded(path, load.digest_of(path), self.trust)

    def _wishes(self) -> PatchWishes:
        return PatchWishes(
            mode=None if self.mode == "auto" else self.mode,
            patch=None if self.patch == "auto" else triple(self.patch),
            overlap=None if self.overlap == "auto" else triple(self.overlap),
            batch=self.batch,
            square=self.turns in ("plane", "all"),
        )

    def _products(self, model: load.Model) -> tuple[tuple[Product, ...], tuple[Wanted, ...]]:
        """The arrays to make, and the outputs of the network that they need, with what makes results of each."""
        usual = model.usage.activation if self.activation == "auto" else self.activation
        # A softmax has its largest where sigmoids have; sigmoids of all that is above 17 are 1, alike.
        of_classes = "softmax" if usual == "sigmoid" else usual
        wanted: list[tuple[str, Any, list[Wanted]]] = []
        if self.output == "classes":
            self._check_classes(model)
            wanted.append(("classes", "largest", [(number, of_classes) for number in range(model.out_channels)]))
        else:
            wanted.append((self._signal, "one", [(_number(self.channel, model), usual)]))
        for given, kind, name in (
            (self.borders, "mean", RELIEFS["borders"]),
            (self.affinities, "rest", RELIEFS["borders"]),
            (self.distances, "one", RELIEFS["distances"]),
        ):
            if given is not None:
                several = given if isinstance(given, tuple) else (given,)
                wanted.append((name, kind, [(_number(one, model), usual) for one in several]))
        outputs = tuple(sorted({one for *_, some in wanted for one in some}))
        products = tuple(
            Product(name=name, kind=kind, channels=tuple(map(outputs.index, some))) for name, kind, some in wanted
        )
        return products, outputs

    def _check_classes(self, model: load.Model) -> None:
        if not 2 <= model.out_channels <= 256:
            raise ModelError(f"predict: classes of a network with {model.out_channels} outputs", "Use probability")
        if self.foreground and not all(0 <= value < model.out_channels for value in self.foreground):
            raise ModelError(
                f"predict: foreground {list(self.foreground)} of a network with {model.out_channels} outputs",
                "Count classes from 0",
            )

    @property
    def _signal(self) -> str:
        return "predicted" if self.makes_image else self.output

    def _after(self, flow: Flow, model: load.Model, lattice: PatchLattice) -> Flow:
        """The flow with the names of the arrays, on the grid of the output."""
        after = replace(flow, signal=self._signal, signal_dtype="float32", signal_range="predict-range")
        if self.output == "classes":
            after = replace(after, signal_dtype="uint8")
        if self.makes_image:
            name = "image" if flow.image_by == self.key else "predicted"
            after = replace(after, image=name, signal=name, image_dtype="float32", image_range="predict-range")
        if model.upsampling == (1, 1, 1):
            return after
        if not self.makes_image:
            raise ModelError(f"predict: the network's output is {model.upsampling} times finer", "Use output: image")
        if flow.valid is not None:
            raise ConfigError("predict: nodata and mask have no finer grid", "Leave them out, or use another network")
        scale = flow.scale
        finer = tuple(v / f for v, f in zip(scale.voxel_um, model.upsampling, strict=True))
        # The first voxel of the finer grid has its centre nearer to the volume's face.
        shift = tuple((a - b) / 2 for a, b in zip(finer, scale.voxel_um, strict=True))
        start = tuple(t + s for t, s in zip(scale.translation_um, shift, strict=True))
        return replace(
            after,
            shape=lattice.units.shape,
            scale=Scale(voxel_um=(finer[0], finer[1], finer[2]), translation_um=(start[0], start[1], start[2])),
            finer=model.upsampling,
        )

    def _segmented(self, flow: Flow, model: load.Model) -> Flow:
        """The flow that leaves: what foreground is, where this stage says so."""
        reliefs = {name: array for name, array in RELIEFS.items() if getattr(self, name) is not None}
        if self.affinities is not None:
            reliefs["borders"] = RELIEFS["borders"]
        flow = replace(flow, reliefs=reliefs)
        if self.output == "classes":
            chosen = self.foreground or tuple(range(1, model.out_channels))
            return replace(flow, mask_steps=(OneOf(array="classes", values=chosen, valid=flow.valid),), mask_needs=())
        value = self._value(flow, model)
        if value is None:
            return flow
        return replace(flow, mask_steps=(Above(array=self._signal, value=value, valid=flow.valid),), mask_needs=())

    def _value(self, flow: Flow, model: load.Model) -> float | None:
        """The threshold, None where this stage has none."""
        if self.output != "probability" or self.threshold is None or "threshold" in flow.wants:
            return None
        usual = 0.5 if model.usage.threshold is None else model.usage.threshold
        return usual if self.threshold == "auto" else self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """Foreground: usable voxels of some classes."""

    array: str
    values: tuple[int, ...]
    valid: str | None

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("mask",)
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.array: out, self.valid: out} if self.valid else {self.array: out}

    def run(self, view: View, out: Box) -> Output:
        data = view.regions[self.array].cut(out)
        xp = array_module(data)
        mask: Any = xp.isin(data, xp.asarray(self.values, data.dtype))
        if self.valid is not None:
            mask &= view.regions[self.valid].cut(out) == DATA | INSIDE
        return Output(arrays={"mask": mask.astype(xp.uint8)})

    def working_bytes(self, out: Triple) -> int:
        return 4 * prod(out)


def _read_by(flow: Flow, how: Normalization) -> tuple[tuple[Draft, ...], tuple[str, ...]]:
    """The passes before the network, and the arrays it reads."""
    if flow.network_channels:
        return channel_drafts(flow, how)
    return scale_drafts(flow, how, Predict.key), (str(flow.signal),)


def _passes(
    flow: Flow,
    network: Network,
    lattice: PatchLattice,
    mode: Mode,
    products: tuple[Product, ...],
    *,
    needs: tuple[str, ...],
) -> tuple[Draft, ...]:
    """The passes that make the arrays of the flow, and the range of its signal."""
    first = products[0]
    names = {first.name: str(flow.signal)}
    writes = tuple(ArraySpec(name=names.get(p.name, p.name), dtype=p.dtype, product=p.name) for p in products)
    seen = Range(array=first.name, valid=flow.valid)
    if mode != "blend":
        steps: tuple[BlockStep, ...] = (InferCores(network=network, lattice=lattice, products=products), seen)
        made = Draft(name="predict", grid=lattice.units, steps=steps, writes=writes, needs=needs, tiled=True)
        return made, range_draft(scan="predict", merge="predict-range", grid=made.grid)
    infer = InferViews(network=network, lattice=lattice)
    joined = BlendViews(lattice=lattice, channels=len(infer.produces), products=products)
    views = tuple(ArraySpec(name=name, dtype="float32") for name in infer.produces)
    return (
        Draft(name="predict-patches", grid=lattice.view_units, steps=(infer,), writes=views, needs=needs, tiled=True),
        Draft(name="predict", grid=flow.grid, steps=(joined, seen), writes=writes),
        range_draft(scan="predict", merge="predict-range", grid=flow.grid),
    )


def _warnings(flow: Flow, model: load.Model) -> tuple[str, ...]:
    found = []
    if reach(model) is None:
        found.append(
            "the network's result depends on its whole patch (group or instance norm, attention, one fixed shape, or "
            "an output that does not move with its input by whole strides, as with a stride that nobody stated): "
            "another patch or overlap is another result, blocks and workers change nothing"
        )
    known, names = model.usage.inputs, tuple(channel.name for channel in flow.network_channels)
    if known and names and all(known) and known != names:
        found.append(
            f"the network was trained on channels {', '.join(known)} in this order; it sees {', '.join(names)}"
        )
    trained = model.usage.voxel_um
    if trained and any(abs(a - b) > OTHER_SIZE * b for a, b in zip(flow.scale.voxel_um, trained, strict=True)):
        found.append(
            f"the network was trained for voxels of {list(trained)} um and sees {list(flow.scale.voxel_um)} um: "
            f"resample: {{voxel_um: {list(trained)}}} in front of predict changes that"
        )
    restored = "deconvolve" in flow.wants
    if model.usage.deconvolved is True and not restored:
        found.append(
            "the network was trained on deconvolved images, and no deconvolve stands in front of predict: put one "
            "there with your PSF, unless the input is deconvolved already"
        )
    if model.usage.deconvolved is False and restored:
        found.append("the network was trained on images that were not deconvolved, and sees deconvolved ones")
    return tuple(found)


@lru_cache(maxsize=4)
def _loaded(path: str, digest: str, trust: str | None) -> load.Model:
    """The network, once per file: a plan asks for it at every size of block that it tries."""
    return load.load_model(path, trust=trust)


def packaged(path: str, folder: Path | None = None) -> str:
    """The place of a network: in `folder`, or that of one that comes with the package, where the name is one of those
    and there is no such file. A URL stays one."""
    if "://" in path:
        return path
    here = (folder or Path()) / path
    shipped = MODELS / path
    return str(shipped) if Path(path).name == path and shipped.is_dir() and not here.exists() else str(here)


def _number(channel: Channel, model: load.Model) -> int:
    """The number of an output."""
    names = model.usage.outputs
    if isinstance(channel, str):
        if channel not in names:
            raise ModelError(
                f"predict: the network has no output {channel!r}",
                nearest(channel, names) if names else "Its outputs have no names: give a number",
            )
        return names.index(channel)
    if not 0 <= channel < model.out_channels:
        raise ModelError(
            f"predict: channel {channel} of a network with {model.out_channels} outputs", "Count channels from 0"
        )
    return channel
