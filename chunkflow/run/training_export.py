"""The folder of a trained network: its weights, how it came about, a package for others, and a report.

The record is written last, so that a folder with one is whole.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from chunkflow.models.usage import Usage
from chunkflow.run import validation
from chunkflow.run.training import Training
from chunkflow.run.training_data import Data
from chunkflow.storage.files import write_atomic

if TYPE_CHECKING:
    from chunkflow.models.train import Trained
    from chunkflow.models.unet import UNet

RECORD = "training.json"
EXPORTED = ("model.yaml", "rdf.yaml", "weights.safetensors", "weights.pt", "weights.torchscript", "report.html")
"""What a network is loaded from, and its report."""
LIBRARIES = ("chunkflow-engine", "torch", "numpy", "scipy", "scikit-image", "zarr")
SHOWN = 4
"""Examples in the report."""


def export(
    training: Training,
    data: Data,
    network: UNet,
    trained: Trained,
    folder: Path,
    description: Mapping[str, Any],
    device: str,
    examples: Sequence[validation.Example],
    sample: NDArray[Any],
) -> dict[str, Any]:
    """Write everything, and return the content of training.json.

    sample : (C, Z, Y, X) grey values, the test input of the package
    """
    from chunkflow.models.load import save_model
    from chunkflow.models.train import applied
    from chunkflow.models.zoo import write_package
    from chunkflow.report.training import write_training_report

    usage = usage_of(training, data)
    config = network.config
    save_model(trained.weights, config, folder, usage)
    record = _record(description, usage, network, trained, device)
    about = training.about
    write_package(
        folder,
        model=trained.weights,
        config=config,
        usage=usage,
        sample_input=sample,
        name=about.name,
        description=about.description,
        authors=[{"name": name} for name in about.authors],
        license=about.license,
        documentation=_documentation(record),
        tags=[training.target.kind],
    )
    network.load_state_dict(trained.weights)
    apply = applied(network.cpu().eval(), training.target.activation)
    shown = [(e, validation.predicted(apply, e.image, training.patch, config.stride)) for e in examples[:SHOWN]]
    write_training_report(folder, record, shown)
    write_atomic(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
    return record


def usage_of(training: Training, data: Data) -> Usage:
    """How the network is to be applied."""
    target = training.target
    assert training.normalization is not None  # `train` settles it
    return Usage(
        normalization=training.normalization,
        activation=target.activation,
        outputs=target.outputs,
        inputs=inputs_of(data),
        threshold=0.5 if target.activation == "sigmoid" else None,
        voxel_um=data.voxel_um,
        deconvolved=training.deconvolved,
    )


def inputs_of(data: Data) -> tuple[str, ...]:
    """Names of the channels of the images; none where the network sees one, or not all have names of their own."""
    names = tuple(volume.channel for volume in data.pairs[0].images)
    return names if len(names) > 1 and all(names) and len(set(names)) == len(names) else ()


def _record(
    description: Mapping[str, Any], usage: Usage, network: UNet, trained: Trained, device: str
) -> dict[str, Any]:
    return {
        **description,
        "network": network.config.to_dict(),
        "usage": usage.to_dict(),
        "parameters": sum(p.numel() for p in network.parameters()),
        "ended": trained.ended,
        "step": trained.step,
        "best": dict(trained.best),
        "losses": [float(f"{value:.6g}") for value in trained.losses],
        "validations": [dict(scores) for scores in trained.validations],
        "seconds": round(trained.seconds, 1),
        "waited": round(trained.waited, 1),
        "device": device,
        "threads": trained.threads,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _documentation(record: Mapping[str, Any]) -> str:
    """A section on validation for the package's README."""
    scores = {name: value for name, value in record["best"].items() if name != "step"}
    if not scores:
        return "## Validation\n\nNothing was kept for validation.\n"
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in scores.items())
    return f"## Validation\n\nOn boxes that it was not trained on:\n\n| score | value |\n|---|---|\n{rows}\n"
