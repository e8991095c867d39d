"""Network files, read without running what is in them.

    folder with model.yaml, .safetensors, .pt, .pth    weights of an architecture that chunkflow ships     `shipped`
    .pt2                                               torch.export, a graph of aten operators             `exported`
    .torchscript, .pt                                  torch.jit, checked source                           `torchscript`
    .onnx                                              a graph of ONNX operators                           `onnx`
    folder or .zip with rdf.yaml                       a package of the BioImage Model Zoo                 `zoo`
    .pt, .pth of a pickled module                      only where the user names its digest                `trusted`

A folder may also hold a program, weights.pt2, weights.torchscript, weights.onnx or weights.pt, beside a model.yaml that
states what no operator tells: {stride, upsampling, in_channels, usage}.

Files are read into memory whole; what is larger than the memory that is free is refused first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from chunkflow.errors import ModelError
from chunkflow.models import exported, files, onnx, shipped, torchscript, trusted
from chunkflow.models.files import digest_of
from chunkflow.models.model import Model, Stated, import_torch
from chunkflow.models.shipped import save_model

__all__ = ["Model", "digest_of", "load_model", "save_model"]

Loader = Callable[[Path, str, str, Stated | None], Model]

PROGRAMS: dict[str, Loader] = {
    ".pt2": exported.load_exported,
    ".onnx": onnx.load_onnx,
    ".torchscript": torchscript.load_torchscript,
}


def load_model(path: str | Path, *, device: str = "cpu", trust: str | None = None) -> Model:
    """Read a network from any of the forms above.

    device : "cpu", "gpu" (the current one) or a torch name such as "cuda:1"
    trust : SHA-256 of the file, as `digest_of` tells it: what is in it may run code. Another file is refused.

    Raises
    ------
    ModelError : there is no such file, it is not a network, it does not fit into memory, or it would have to run code
        to become one and nobody trusts it.
    """
    torch = import_torch()
    path = Path(path)
    files.check_memory(path)
    digest = digest_of(path)
    if trust is not None and trust.lower() != digest:
        raise ModelError(f"{path} has the digest {digest}, not {trust} that is trusted", "Look at the file again")
    where = "cuda" if device == "gpu" else device
    if where.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"the network is to run on {device!r}, where torch finds no GPU", "Install torch with CUDA")
    if files.is_package(path):
        from chunkflow.models.zoo import load_package

        return load_package(path, digest, where)
    return _from_file(path, digest, where, is_trusted=trust is not None)


def _from_file(path: Path, digest: str, device: str, *, is_trusted: bool) -> Model:
    """A network from one file, or from a folder with a header."""
    file = files.weights_file(path)
    program = PROGRAMS.get(file.suffix.lower())
    if program is None and file.suffix.lower() in (".pt", ".pth"):
        if torchscript.is_torchscript(file):
            program = torchscript.load_torchscript
        else:
            files.check_archive(file)
    if program is not None:
        return program(file, digest, device, _stated(path))
    try:
        return shipped.load_shipped(path, digest, device)
    except shipped.PickledError as error:
        if is_trusted:
            return trusted.load_trusted(path, digest, device, _stated(path))
        raise shipped.PickledError(
            error.what, f"{error.remedy}. To run it all the same: predict: {{trust: {digest}}}"
        ) from error


def _stated(path: Path) -> Stated | None:
    """What the header of a folder says of a program; None for a file."""
    if path.is_file():
        return None
    return Stated.from_dict(files.read_yaml((path / files.HEADER).read_bytes(), path / files.HEADER))
