"""Volumes that do not fit in memory: the answer a whole-volume run would give, from a cluster of chunk tasks.

import chunkflow as cf

pipeline = cf.Pipeline.from_yaml("pipeline.yaml")
result = pipeline.plan("in.ome.zarr", "out").run()
result.objects, result.branches, result.graph
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chunkflow import errors as errors

if TYPE_CHECKING:
    from chunkflow.plan.pipeline import InputOptions, OutputOptions, Pipeline
    from chunkflow.plan.plan import Plan
    from chunkflow.report.comparison import write_comparison
    from chunkflow.run.batch import Options as BatchOptions
    from chunkflow.run.batch import run_batch
    from chunkflow.run.compare import Questions, compare
    from chunkflow.run.exporting import export
    from chunkflow.run.preview import preview
    from chunkflow.run.result import Result, open_result
    from chunkflow.run.train import train
    from chunkflow.run.train_pixels import train_pixels
    from chunkflow.stages.apply import Apply
    from chunkflow.stages.correct import Correct
    from chunkflow.stages.deconvolve import Deconvolve
    from chunkflow.stages.instances import Instances
    from chunkflow.stages.label import Label
    from chunkflow.stages.measure import Measure
    from chunkflow.stages.pixels import PixelClassifier
    from chunkflow.stages.predict import Predict
    from chunkflow.stages.psf import Psf
    from chunkflow.stages.resample import Resample
    from chunkflow.stages.skeleton import Skeleton
    from chunkflow.stages.threshold import Threshold
    from chunkflow.stages.vesselness import Vesselness
    from chunkflow.storage.importing import import_image
    from chunkflow.storage.omezarr import open_volume

__version__ = "0.1.0"

__all__ = [
    "Apply",
    "BatchOptions",
    "Correct",
    "Deconvolve",
    "InputOptions",
    "Instances",
    "Label",
    "Measure",
    "OutputOptions",
    "Pipeline",
    "PixelClassifier",
    "Plan",
    "Predict",
    "Psf",
    "Questions",
    "Resample",
    "Result",
    "Skeleton",
    "Threshold",
    "Vesselness",
    "compare",
    "export",
    "import_image",
    "open_result",
    "open_volume",
    "preview",
    "run_batch",
    "train",
    "train_pixels",
    "write_comparison",
]

_HOMES = {
    "Apply": "chunkflow.stages.apply:Apply",
    "BatchOptions": "chunkflow.run.batch:Options",
    "Correct": "chunkflow.stages.correct:Correct",
    "Deconvolve": "chunkflow.stages.deconvolve:Deconvolve",
    "InputOptions": "chunkflow.plan.pipeline:InputOptions",
    "Instances": "chunkflow.stages.instances:Instances",
    "Label": "chunkflow.stages.label:Label",
    "Measure": "chunkflow.stages.measure:Measure",
    "OutputOptions": "chunkflow.plan.pipeline:OutputOptions",
    "Pipeline": "chunkflow.plan.pipeline:Pipeline",
    "PixelClassifier": "chunkflow.stages.pixels:PixelClassifier",
    "Plan": "chunkflow.plan.plan:Plan",
    "Predict": "chunkflow.stages.predict:Predict",
    "Psf": "chunkflow.stages.psf:Psf",
    "Questions": "chunkflow.run.compare:Questions",
    "Resample": "chunkflow.stages.resample:Resample",
    "Result": "chunkflow.run.result:Result",
    "Skeleton": "chunkflow.stages.skeleton:Skeleton",
    "Threshold": "chunkflow.stages.threshold:Threshold",
    "Vesselness": "chunkflow.stages.vesselness:Vesselness",
    "compare": "chunkflow.run.compare:compare",
    "export": "chunkflow.run.exporting:export",
    "import_image": "chunkflow.storage.importing:import_image",
    "open_result": "chunkflow.run.result:open_result",
    "open_volume": "chunkflow.storage.omezarr:open_volume",
    "preview": "chunkflow.run.preview:preview",
    "run_batch": "chunkflow.run.batch:run_batch",
    "train": "chunkflow.run.train:train",
    "train_pixels": "chunkflow.run.train_pixels:train_pixels",
    "write_comparison": "chunkflow.report.comparison:write_comparison",
}
"""Where each name of `__all__` is. It is imported when it is first asked for: `chunkflow --help` needs none of them."""


def __getattr__(name: str) -> Any:
    try:
        module, _, there = _HOMES[name].partition(":")
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    globals()[name] = found = getattr(import_module(module), there)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
