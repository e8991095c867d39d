"""Weights of the architectures that chunkflow ships, read without running what is in their files.

    folder      model.yaml + weights.safetensors or weights.pt      {architecture: unet, config: {...}, usage: {...}}
    .safetensors                                                    the same in one file, the header in its metadata
    .pt, .pth   {"architecture", "config", "usage", "state_dict"}   read with `weights_only=True`

Weights never come from a general pickle: torch's restricted reader builds tensors and plain containers only.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

from chunkflow.errors import ModelError
from chunkflow.models import files
from chunkflow.models.model import Model, import_extra, import_torch, usage_of
from chunkflow.models.usage import Usage

if TYPE_CHECKING:
    import torch

    from chunkflow.models.unet import UNet, UNetConfig

METADATA_KEY = "chunkflow"
ARCHITECTURE = "unet"
RESAVE = "Save the weights again with torch.save(model.state_dict(), ...) or as safetensors; pickled modules run code"


class PickledError(ModelError):
    """A file is damaged, or holds more than weights: reading it would run code."""


def load_shipped(path: Path, digest: str, device: str) -> Model:
    """A network from any of the forms above.

    Raises
    ------
    ModelError : it is none; PickledError where it would have to run code.
    """
    header, state = _header_and_state(path)
    kind = "safetensors" if files.weights_file(path).suffix == ".safetensors" else "state dict"
    return model_of(header, state, path, digest, device, kind=kind)


def load_unet(path: Path) -> UNet:
    """Our own architecture with the weights in a file, as it was trained: to go on training.

    Raises
    ------
    ModelError : as `load_shipped`.
    """
    return _built(*_header_and_state(path), path)


def model_of(
    header: Mapping[str, Any], state: Mapping[str, Any], path: Path, digest: str, device: str, *, kind: str
) -> Model:
    """The network that the header describes, with these weights, ready to be applied.

    Raises
    ------
    ModelError : the architecture is unknown, or weights and config do not fit.
    """
    module = _built(header, state, path).to(device)
    config, usage = module.config, usage_of(header.get("usage"))
    if len(usage.outputs) > config.out_channels:
        raise ModelError(
            f"{path} names outputs {list(usage.outputs)} and has {config.out_channels}",
            "Name each output once, or none",
        )
    return Model(
        module.fold(),
        digest,
        config.stride,
        config.out_channels,
        device,
        in_channels=config.in_channels,
        upsampling=config.upsampling,
        usage=usage,
        kind=kind,
        architecture=f"U-Net of widths {', '.join(map(str, config.widths))}",
        patch_min=config.stride,
    )


def save_model(
    model: torch.nn.Module | Mapping[str, torch.Tensor],
    config: UNetConfig,
    path: str | Path,
    usage: Usage | None = None,
) -> None:
    """Write a network, or its state dict, so that `load_model` reads it.

    A `path` that ends in .safetensors becomes one file, any other a folder (the header is written last).
    """
    from safetensors.torch import save

    path = Path(path)
    tensors = plain_state(model)
    header: dict[str, Any] = {"architecture": ARCHITECTURE, "config": config.to_dict()}
    if usage is not None:
        header["usage"] = usage.to_dict()
    if path.suffix == ".safetensors":
        path.write_bytes(save(tensors, metadata={METADATA_KEY: json.dumps(header)}))
        return
    path.mkdir(parents=True, exist_ok=True)
    (path / "weights.safetensors").write_bytes(save(tensors))
    (path / files.HEADER).write_text(yaml.safe_dump(header, sort_keys=False), encoding="utf-8")


def plain_state(model: torch.nn.Module | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a network by name, on the CPU, each in memory of its own."""
    state = model if isinstance(model, Mapping) else model.state_dict()
    return {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}


def unet(*, asinh: float | None = None, **config: Any) -> torch.nn.Module:
    """A U-Net by the plain values of its config: what the rdf.yaml of a package names, for other programs to call.

    asinh : the network compresses its input, asinh(a v) / asinh(a), as `Normalization.asinh` says
    """
    from chunkflow.models.compressed import CompressedUNet
    from chunkflow.models.unet import UNet, UNetConfig

    parsed = UNetConfig.from_dict(config)
    return UNet(parsed) if asinh is None else CompressedUNet(parsed, asinh)


def read_restricted(source: Path | BinaryIO, path: Path) -> Any:
    """Tensors and plain containers from a .pt; `path` is what errors call it.

    Raises
    ------
    ModelError : it is damaged; PickledError where it would have to run code.
    """
    torch = import_torch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, just before the error that says what matters
            return torch.load(source, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise PickledError(f"{path} is damaged, or more than weights: reading it would run code", RESAVE) from error
    except Exception as error:  # whatever a reader raises on a foreign file (a dozen kinds) means the same here
        raise _unreadable(path, error) from error


def _header_and_state(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What the network is, and its weights."""
    file = files.weights_file(path)
    header, state = _read_safetensors(file) if file.suffix == ".safetensors" else _pair(read_restricted(file, path))
    if path.is_dir():
        header = files.read_yaml((path / files.HEADER).read_bytes(), path / files.HEADER)
    if not isinstance(header, Mapping) or not isinstance(header.get("config"), Mapping):
        raise ModelError(
            f"{path} does not say what its weights belong to",
            "Give it a header {architecture: unet, config: {...}}, or write it with chunkflow.models.save_model",
        )
    return header, state


def _pair(content: Any) -> tuple[Any, Any]:
    """Header and weights of a .pt; the content itself as weights where it is no such pair."""
    is_pair = isinstance(content, Mapping) and "state_dict" in content
    return (content, content["state_dict"]) if is_pair else (None, content)


def _read_safetensors(file: Path) -> tuple[Any, Any]:
    import_extra("safetensors")
    from safetensors import safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        return json.loads(metadata.get(METADATA_KEY, "null")), load_file(file)
    except Exception as error:  # as in read_restricted
        raise _unreadable(file, error) from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} cannot be read as a network: {files.first_line(error)}", RESAVE)


def _built(header: Mapping[str, Any], state: Any, path: Path) -> UNet:
    """The network that the header describes, with these weights, in float32 and evaluation mode.

    Built without memory of its own and given the file's tensors only after their shapes were compared, so a header
    that declares a huge network costs nothing.
    """
    torch = import_torch()
    from chunkflow.models.unet import UNet, UNetConfig

    architecture = header.get("architecture", ARCHITECTURE)
    if architecture != ARCHITECTURE:
        raise ModelError(f"{path} is of architecture {architecture!r}", "Known: unet; export others as .pt2 or .onnx")
    if not isinstance(state, Mapping):
        raise ModelError(f"the weights of {path} are a {type(state).__name__}, not a state dict", RESAVE)
    with torch.device("meta"):
        module = UNet(UNetConfig.from_dict(header["config"]))
    wanted = {key: _shape(value) for key, value in module.state_dict().items()}
    found = {key: _shape(value) for key, value in state.items()}
    wrong = sorted(str(key) for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        key = wrong[0]
        raise ModelError(
            f"{len(wrong)} weights of {path} do not fit its config, first {key}: "
            f"{found.get(key, 'missing')} where {wanted.get(key, 'nothing')} belongs",
            "Give the config that the weights were trained with",
        )
    whole = [
        str(key)
        for key, value in module.state_dict().items()
        if value.is_floating_point() != state[key].is_floating_point()
    ]
    if whole:
        raise ModelError(
            f"{len(whole)} weights of {path} are {state[whole[0]].dtype}, first {whole[0]}",
            "Give weights in floating point",
        )
    module.load_state_dict(state, assign=True)
    return module.float().requires_grad_(False).eval()


def _shape(value: object) -> tuple[int, ...] | None:
    """Of an ordinary tensor; None for anything else, which fits nowhere."""
    torch = import_torch()
    plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
    return tuple(value.shape) if plain else None  # type: ignore[attr-defined]
