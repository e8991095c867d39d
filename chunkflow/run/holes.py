"""A block that was set aside, computed once more as though everything it reads were background.

    steps of the pass, each reading zeros  ->  its record;  zeros in place of what it makes  ->  no file

So later passes find what they need of every block: no object, no signal, nothing to measure. Only where the user asked
for it (`allow_holes`), and said in status and report. A step that reads no array, as one over records, is what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np

from chunkflow.backend import array_module, to_device
from chunkflow.geometry.box import Box, Triple
from chunkflow.run.worker import Job
from chunkflow.stages.base import BlockStep, Output, Region, View

Readable = Mapping[str, tuple[Triple, str]]
"""Shape and type of every stored array, by name."""


@dataclass(frozen=True, slots=True)
class Background:
    """A step that sees zeros, and whose arrays are zeros."""

    step: BlockStep
    readable: Readable

    version: ClassVar[int] = 1

    @property
    def on_device(self) -> bool:
        """As the step."""
        return self.step.on_device

    @property
    def produces(self) -> tuple[str, ...]:
        return self.step.produces

    def reads(self, out: Box) -> Mapping[str, Box]:
        """What earlier steps of the chain make; nothing is read from storage, which may be what is wrong."""
        return {name: box for name, box in self.step.reads(out).items() if name not in self.readable}

    def run(self, view: View, out: Box) -> Output:
        regions = {name: _zeros_like(region) for name, region in view.regions.items()}
        for name, box in self.step.reads(out).items():
            if name in self.readable:
                shape, dtype = self.readable[name]
                inside = box.clip(Box.of_shape(shape))
                regions[name] = Region(inside, to_device(np.zeros(inside.shape, dtype), view.device))
        output = self.step.run(replace(view, regions=regions), out)
        arrays = {name: array_module(data).zeros_like(data) for name, data in output.arrays.items()}
        return Output(arrays=arrays, record=output.record)

    def working_bytes(self, out: Triple) -> int:
        return self.step.working_bytes(out)


def job_of_holes(job: Job, readable: Readable) -> Job:
    """The job of a pass on background."""
    return replace(job, steps=tuple(cast(BlockStep, Background(step, readable)) for step in job.steps))


def _zeros_like(region: Region) -> Region:
    return Region(region.box, array_module(region.data).zeros_like(region.data))
