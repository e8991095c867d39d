"""A network as a package of the BioImage Model Zoo: a folder that `load_model` reads and other programs accept.

    rdf.yaml             format 0.5: axes, scaling, sizes, files and their digests; config: chunkflow has our own words
    weights.pt           the state dict, for programs that have chunkflow beside torch
    weights.torchscript  the same network for programs that have torch alone
    test_input.npy       an image, and test_output.npy: what the network and its scaling make of it
    cover.png README.md  for people

TorchScript is deprecated in torch, but it is what Fiji, ilastik and QuPath read without our code; where a torch no
longer writes it, the package is made without. The scaling of other programs knows no asinh: there the network does it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from chunkflow.errors import ModelError
from chunkflow.models.files import PACKAGE_NAME, sha256
from chunkflow.models.model import Triple, import_torch
from chunkflow.models.shipped import plain_state, unet
from chunkflow.models.usage import Normalization, Usage
from chunkflow.models.zoo_normalize import activated, normalized

if TYPE_CHECKING:
    import torch

    from chunkflow.models.unet import UNetConfig

OUR_MODULE, OUR_CALLABLE = "chunkflow.models.shipped", "unet"
FORMAT = "0.5.4"
LEAST_SIDE = 16
CITE = ({"text": "Çiçek et al. 2016, 3D U-Net (MICCAI)", "doi": "10.1007/978-3-319-46723-8_49"},)
DEPRECATION = r"`torch\.jit\.(trace|trace_method|save)` is deprecated\. Please switch to .*"
COVER_SIDE = 256


def write_package(
    folder: str | Path,
    *,
    model: torch.nn.Module | Mapping[str, torch.Tensor],
    config: UNetConfig,
    usage: Usage,
    sample_input: np.ndarray[Any, Any],
    name: str,
    description: str,
    authors: Sequence[Mapping[str, str]],
    license: str = "CC-BY-4.0",
    documentation: str = "",
    cite: Sequence[Mapping[str, str]] = (),
    tags: Sequence[str] = (),
) -> None:
    """Write the folder; rdf.yaml last, so that a folder with one is whole.

    model : a `UNet` of `config`, or its state dict
    sample_input : (Z, Y, X) or (C, Z, Y, X), grey values; cut to sides that the network takes
    name : 5 to 128 letters, digits, spaces and _+-(); description : a sentence
    authors : maps with `name` and, if wanted, `affiliation`, `email`, `orcid`, `github_user`
    license : an SPDX identifier
    documentation : Markdown for README.md, to which a section on validation is added where it has none
    cite : maps with `text` and `doi` or `url`

    Raises
    ------
    ModelError : the sample is too small, or of other channels; nobody is named as author; the name is none.
    """
    import_torch()
    folder = Path(folder)
    if not authors:
        raise ModelError(f"the package {folder} has no author", "Name at least one, as in [{name: ...}]")
    if not PACKAGE_NAME.fullmatch(name):
        raise ModelError(f"a package cannot be called {name!r}", "Use 5 to 128 letters, digits, spaces and _+-()")
    volume = _cut(np.asarray(sample_input, dtype=np.float32), config)
    asinh = usage.normalization.asinh
    network = unet(asinh=asinh, **config.to_dict())
    state = plain_state(model)
    network.load_state_dict(state)
    network = network.float().eval()
    output = _output(network, volume, usage)
    folder.mkdir(parents=True, exist_ok=True)
    written = _write_weights(folder, network, state, volume)
    np.save(folder / "test_input.npy", volume[None])
    np.save(folder / "test_output.npy", output)
    _write_cover(folder / "cover.png", volume, output[0])
    (folder / "README.md").write_text(_readme(name, description, documentation), encoding="utf-8")
    rdf = {
        "type": "model",
        "format_version": FORMAT,
        "name": name,
        "description": description,
        "authors": [dict(author) for author in authors],
        "license": license,
        "cite": [dict(one) for one in cite or CITE],
        "tags": [*tags, "chunkflow", "unet", "3d"],
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "covers": [_file(folder, "cover.png")],
        "documentation": _file(folder, "README.md"),
        "inputs": [_input(folder, config, usage)],
        "outputs": [_described_output(folder, config, usage)],
        "weights": _weights(folder, config, asinh, written),
        "config": {"chunkflow": {"usage": usage.to_dict()}},
    }
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _cut(volume: np.ndarray[Any, Any], config: UNetConfig) -> np.ndarray[Any, Any]:
    """(C, Z, Y, X) with sides that the network takes, from the middle."""
    volume = volume[None] if volume.ndim == 3 else volume
    least = _least(config.stride)
    if (
        volume.ndim != 4
        or len(volume) != config.in_channels
        or any(n < m for n, m in zip(volume.shape[1:], least, strict=True))
    ):
        raise ModelError(
            f"a sample of shape {volume.shape} for a network of {config.in_channels} channels",
            f"Give an array ({config.in_channels}, Z, Y, X) of at least {least} voxels",
        )
    for axis, step in enumerate(config.stride, start=1):
        side = volume.shape[axis] // step * step
        first = (volume.shape[axis] - side) // 2
        volume = np.take(volume, range(first, first + side), axis=axis)
    return np.ascontiguousarray(volume)


def _least(stride: Triple) -> Triple:
    """The smallest sides that are described: the network takes less, but that serves nobody."""
    z, y, x = (-(-LEAST_SIDE // step) * step for step in stride)
    return z, y, x


def _output(network: torch.nn.Module, volume: np.ndarray[Any, Any], usage: Usage) -> np.ndarray[Any, Any]:
    """(1, K, Z', Y', X') float32: what the package is to give for the sample."""
    torch = import_torch()
    scaled = normalized(volume, replace(usage.normalization, asinh=None))
    with torch.inference_mode():
        logits = network(torch.from_numpy(scaled[None])).numpy()
    return activated(logits, usage.activation)


def _write_weights(
    folder: Path, network: torch.nn.Module, state: Mapping[str, torch.Tensor], volume: np.ndarray[Any, Any]
) -> tuple[str, ...]:
    """The weights in each form that this torch can write; the names of the forms."""
    torch = import_torch()
    torch.save(dict(state), folder / "weights.pt")
    if not hasattr(torch.jit, "trace"):
        return ("pytorch_state_dict",)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=DEPRECATION, category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # of shapes, which a package states
        example = torch.from_numpy(volume[None]).contiguous()
        traced = torch.jit.trace(network.requires_grad_(False), example, check_trace=False)
        made = io.BytesIO()  # given a path, torch ends the process where the disk is full
        torch.jit.save(traced, made)
        (folder / "weights.torchscript").write_bytes(made.getbuffer())
    return "pytorch_state_dict", "torchscript"


def _weights(folder: Path, config: UNetConfig, asinh: float | None, written: Sequence[str]) -> dict[str, Any]:
    version = import_torch().__version__.partition("+")[0]
    architecture = {
        "callable": OUR_CALLABLE,
        "import_from": OUR_MODULE,
        "kwargs": config.to_dict() | ({} if asinh is None else {"asinh": asinh}),
    }
    entries: dict[str, Any] = {
        "pytorch_state_dict": {
            **_file(folder, "weights.pt"),
            "architecture": architecture,
            "pytorch_version": version,
        }
    }
    if "torchscript" in written:
        entries["torchscript"] = {
            **_file(folder, "weights.torchscript"),
            "parent": "pytorch_state_dict",
            "pytorch_version": version,
        }
    return entries


def _input(folder: Path, config: UNetConfig, usage: Usage) -> dict[str, Any]:
    sizes = [{"min": least, "step": step} for least, step in zip(_least(config.stride), config.stride, strict=True)]
    axes = _space(usage, config.upsampling, is_output=False)
    space = [axis | {"size": size} for axis, size in zip(axes, sizes, strict=True)]
    names = list(usage.inputs) or [f"channel{number}" for number in range(config.in_channels)]
    return {
        "id": "image",
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": names}, *space],
        "data": {"type": "float32"},
        "test_tensor": _file(folder, "test_input.npy"),
        "preprocessing": _preprocessing(usage.normalization, config.in_channels),
    }


def _described_output(folder: Path, config: UNetConfig, usage: Usage) -> dict[str, Any]:
    axes = _space(usage, config.upsampling, is_output=True)
    space = [axis | {"size": {"tensor_id": "image", "axis_id": axis["id"]}} for axis in axes]
    names = list(usage.outputs) or [f"output{number}" for number in range(config.out_channels)]
    steps = [] if usage.activation == "none" else [{"id": usage.activation}]
    return {
        "id": "prediction",
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": names}, *space],
        "data": {"type": "float32"},
        "test_tensor": _file(folder, "test_output.npy"),
        "postprocessing": steps,
    }


def _space(usage: Usage, finer: Triple, *, is_output: bool) -> list[dict[str, Any]]:
    """Axes in space with the size of a voxel; where nobody said in voxels of the output.

    In whole nanometres or picometres: sizes of arrays are ratios of lengths in this format, and 48 * 0.1 / 0.1 is
    not 48.
    """
    sizes, unit = list(finer), {}
    if usage.voxel_um is not None:
        sizes = [round(um * 1e6 / factor) * factor for um, factor in zip(usage.voxel_um, finer, strict=True)]
        unit = {"unit": "picometer"}
        if all(size % (1000 * factor) == 0 for size, factor in zip(sizes, finer, strict=True)):
            sizes, unit = [size // 1000 for size in sizes], {"unit": "nanometer"}
    return [
        {"type": "space", "id": name, "scale": float(size // factor if is_output else size), **unit}
        for name, size, factor in zip("zyx", sizes, finer, strict=True)
    ]


def _preprocessing(scaling: Normalization, channels: int) -> list[dict[str, Any]]:
    axes = ["channel", "z", "y", "x"] if scaling.together or channels == 1 else ["z", "y", "x"]
    if scaling.kind == "percentiles":
        low, high = scaling.percentiles
        kwargs: dict[str, Any] = {"axes": axes, "min_percentile": low, "max_percentile": high}
        return [{"id": "scale_range", "kwargs": kwargs}]
    if scaling.kind == "mean-sd":
        return [{"id": "zero_mean_unit_variance", "kwargs": {"axes": axes}}]
    gain, offset = 1 / scaling.scale, -scaling.offset / scaling.scale
    if scaling.kind == "linear" and (gain, offset) != (1, 0):
        return [{"id": "scale_linear", "kwargs": {"gain": gain, "offset": offset}}]
    return []


def _file(folder: Path, name: str) -> dict[str, str]:
    return {"source": name, "sha256": sha256(folder / name)}


def _write_cover(path: Path, volume: np.ndarray[Any, Any], output: np.ndarray[Any, Any]) -> None:
    """The middle plane of the image beside that of the first output."""
    from PIL import Image

    halves = []
    for array in (volume[0], output[0]):
        plane = array[len(array) // 2].astype(np.float64)
        low, high = np.percentile(plane, (0.5, 99.5))
        grey = np.clip((plane - low) / max(high - low, 1e-12), 0, 1) * 255
        halves.append(Image.fromarray(grey.astype(np.uint8)).resize((COVER_SIDE, COVER_SIDE)))
    cover = Image.new("L", (2 * COVER_SIDE, COVER_SIDE))
    for number, half in enumerate(halves):
        cover.paste(half, (number * COVER_SIDE, 0))
    cover.save(path)


def _readme(name: str, description: str, documentation: str) -> str:
    text = documentation or f"# {name}\n\n{description}\n"
    if "# validation" in text.lower():
        return text
    return text.rstrip() + (
        "\n\n## Validation\n\nCompare what the network gives for `test_input.npy` with `test_output.npy`: "
        "`chunkflow check` does. Then compare with objects drawn by hand in images it has not seen.\n"
    )
