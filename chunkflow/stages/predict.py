"""A network over the whole volume: patches on one lattice, fixed weights, so that blocks change nothing.

Each block computes every patch that touches its core and blends them there. Neighbouring blocks compute the patches
on their common border twice; blocks several patches wide keep that small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np

from chunkflow.backend import array_module
from chunkflow.errors import ConfigError, ModelError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.kernels import blend, threshold
from chunkflow.models import load
from chunkflow.models.predict import predict
from chunkflow.stages.base import ArraySpec, BlockStep, Draft, Flow, Merged, Output, Record, Region, View
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.scan import Range, range_draft
from chunkflow.stages.threshold import Above, Histogram, bins_of, counted

Percentiles = tuple[float, float]


@lru_cache(maxsize=2)
def _model(path: str, digest: str, device: str) -> load.Model:
    """The network, once per process. A file that changed since the plan is refused."""
    found = load.digest_of(path)
    if found != digest:
        raise ModelError(f"the network {path} is not the one the run was planned with", "Plan the run again")
    return load.load_model(path, device=device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Infer:
    """Probability of one class over a core."""

    array: str
    path: str = field(metadata={"fingerprint": False})  # its digest says what it is
    digest: str
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    patch: Triple
    batch: int
    activation: str
    channel: int
    normalised: bool
    shape: Triple

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("probability",)
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        start, stop = blend.read_box(out.start, out.stop, self.starts, self.patch, self.shape)
        return {self.array: Box(start, stop)}

    def run(self, view: View, out: Box) -> Output:
        region = view.regions[self.array]
        xp = array_module(region.data)
        image = region.data.astype(xp.float32)
        if self.normalised:
            low, high = (np.float32(v) for v in view.values["percentiles"]["percentiles"])
            image = (image - low) / (high - low)
        at = [
            triple(tuple(line[i] for line, i in zip(self.starts, index, strict=True)))
            for index in blend.patches_touching(out.start, out.stop, self.starts, self.patch)
        ]
        weights = xp.asarray(blend.gaussian_weights(self.patch))
        predicted = self._predictions(xp, Region(region.box, image), at, view.device)
        return Output(arrays={"probability": blend.blend(predicted, weights, core_start=out.start, core_stop=out.stop)})

    def _predictions(
        self, xp: Any, image: Region, starts: Sequence[Triple], device: str
    ) -> Iterator[tuple[Triple, Any]]:
        """Each patch with its first voxel, a batch computed at a time."""
        model = _model(self.path, self.digest, device)
        for first in range(0, len(starts), self.batch):
            group = starts[first : first + self.batch]
            patches = xp.stack([blend.cut_patch(image.data, image.box.start, s, self.patch, self.shape) for s in group])
            probabilities = predict(
                model, patches[:, None], activation=self.activation, channel=self.channel, batch=self.batch
            )
            yield from zip(group, probabilities, strict=True)

    def working_bytes(self, out: Triple) -> int:
        # Activations: about 40 floats per voxel at full resolution in the networks we ship, measured on widths 16-64.
        return 16 * prod(out) + self.batch * prod(self.patch) * 4 * 160 + 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePercentiles:
    """Two percentiles of the whole volume, for normalisation."""

    percentiles: Percentiles
    dtype: str
    array: str
    limits: str

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        bins = bins_of(values[self.limits], self.dtype, self.array)
        counts = counted(records["network-histogram"], bins)
        low, high = (threshold.percentile(counts, bins, q) for q in self.percentiles)
        if not low < high:
            raise ConfigError(
                f"predict: percentiles {list(self.percentiles)} of the volume are both {low}",
                "Take them further apart, or set nodata",
            )
        return Merged({"percentiles": np.array([low, high])})

    def working_bytes(self, blocks: int) -> int:
        return 4 * 65536 * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict:
    """Foreground probability from a network.

    path : a network that `chunkflow.models.load` reads
    patch, overlap : voxels of a patch and of what neighbours share; patch - overlap is a multiple of the stride
    batch : patches per forward pass; part of the result, since another size changes the last bits
    activation : what turns logits into probabilities: "sigmoid", "softmax" or "none"
    channel : which output of the network
    percentiles : scale the image so that these percentiles of the volume become 0 and 1; null passes it as it is
    threshold : foreground is above it; null leaves the probability to a threshold stage
    """

    path: str
    patch: Triple = (64, 64, 64)
    overlap: int | Triple = 16
    batch: int = 1
    activation: Literal["sigmoid", "softmax", "none"] = "sigmoid"
    channel: int = 0
    percentiles: Percentiles | None = None
    threshold: float | None = 0.5

    key: ClassVar[str] = "predict"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if min(self.patch) < 1 or self.batch < 1 or self.channel < 0:
            raise ConfigError(
                f"predict: patch {self.patch}, batch {self.batch} or channel {self.channel} is too small",
                "Use patch and batch of 1 or more, channel of 0 or more",
            )
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(f"predict: percentiles {self.percentiles} are not in order", "Use [1, 99.8], say")

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.signal is None:
            raise ConfigError(f"predict: the input is {flow.kind}, not an image", "Leave predict out")
        model = load.load_model(self.path)
        if self.channel >= model.out_channels:
            raise ConfigError(
                f"predict: channel {self.channel} of a network with {model.out_channels}", "Count channels from 0"
            )
        overlap = triple(self.overlap)
        starts = [
            blend.patch_starts(n, p, o, model.stride) for n, p, o in zip(flow.shape, self.patch, overlap, strict=True)
        ]
        infer = Infer(
            array=flow.signal,
            path=self.path,
            digest=model.digest,
            starts=(starts[0], starts[1], starts[2]),
            patch=self.patch,
            batch=self.batch,
            activation=self.activation,
            channel=self.channel,
            normalised=self.percentiles is not None,
            shape=flow.shape,
        )
        drafts: list[Draft] = []
        needs: tuple[str, ...] = ()
        if self.percentiles is not None:
            needs = ("percentiles",)
            drafts += self._normalisation(flow, self.percentiles)
        steps: tuple[BlockStep, ...] = (infer, Range(array="probability", valid=flow.valid))
        written = ArraySpec(name="probability", dtype="float32")
        drafts.append(Draft(name="predict", grid=flow.grid, steps=steps, writes=(written,), needs=needs))
        drafts.append(range_draft(scan="predict", merge="predict-range", grid=flow.grid))
        after = replace(flow, signal="probability", signal_dtype="float32", signal_range="predict-range")
        if self.threshold is not None:
            above = Above(array="probability", value=self.threshold, valid=flow.valid)
            after = replace(after, mask_steps=(above,), mask_needs=())
        return tuple(drafts), after

    @staticmethod
    def _normalisation(flow: Flow, percentiles: Percentiles) -> list[Draft]:
        array, dtype, limits = str(flow.signal), flow.signal_dtype, flow.signal_range
        counts = Histogram(array=array, dtype=dtype, valid=flow.valid, limits=limits)
        merge = MergePercentiles(percentiles=percentiles, dtype=dtype, array=array, limits=limits)
        return [
            Draft(name="network-histogram", grid=flow.grid, steps=(counts,), needs=(limits,)),
            Draft(name="percentiles", grid=flow.grid, merge=merge, needs=("network-histogram", limits)),
        ]
