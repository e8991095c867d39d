"""Volumes that do not fit in memory: the answer a whole-volume run would give, from a cluster of chunk tasks.

import chunkflow as cf

pipeline = cf.Pipeline.from_yaml("pipeline.yaml")
result = pipeline.plan("in.ome.zarr", "out").run()
result.objects, result.branches, result.graph
"""

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
