"""ONNX through onnxruntime: a graph of operators that its runtime knows.

An .onnx names operators and holds no code; libraries of operators of one's own are never loaded. Arrays in files beside
it are read by us, from within its folder (`files`), and handed over in memory.

One thread, deterministic operators, providers in a fixed order. `metadata_props` of the file may hold "chunkflow.json",
which states what no operator tells, as in a .pt2.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkflow.errors import ModelError
from chunkflow.models import files
from chunkflow.models.adapters import Network, batches_of, planes, probe, probe_sides
from chunkflow.models.model import EXTRA_FILE, Model, Sides, Stated, import_extra, import_torch
from chunkflow.models.onnx_files import names_in

if TYPE_CHECKING:
    from torch import Tensor

FLOAT = "tensor(float)"


@dataclass(frozen=True, slots=True)
class Graph:
    """A network as onnxruntime took it, for arrays of `ndim` axes: 5 (N, C, Z, Y, X) or 4 (N, C, Y, X).

    in_channels, out_channels, patch : None where the file leaves them free
    stated : what the file says of itself
    """

    network: Network
    in_channels: int | None
    out_channels: int | None
    patch: Sides
    stated: object


def load_onnx(path: Path, digest: str, device: str, stated: Stated | None = None) -> Model:
    """A network from an .onnx; `stated` instead of what the file states of itself.

    Raises
    ------
    ModelError : it is none, the runtime does not know an operator or version, or it takes and gives no volumes.
    """
    graph = read_onnx(path.read_bytes(), lambda name: (path.parent / name).read_bytes(), path, device)
    stated = stated or Stated.from_dict(graph.stated)
    in_channels, out_channels = stated.in_channels or graph.in_channels, graph.out_channels
    if in_channels is None or out_channels is None:
        in_channels, out_channels = probe(
            graph.network,
            path,
            probe_sides(stated.stride),
            upsampling=stated.upsampling,
            device=device,
            in_channels=in_channels,
        )
    return Model(
        graph.network,
        digest,
        stated.stride,
        out_channels,
        device,
        in_channels=in_channels,
        upsampling=stated.upsampling,
        usage=stated.usage,
        kind="ONNX",
        architecture="graph of ONNX operators",
        patch=graph.patch,
        patch_min=stated.stride,
    )


def read_onnx(content: bytes, external: Callable[[str], bytes], path: Path, device: str) -> Graph:
    """The network in the bytes of an .onnx.

    external : gives the bytes of a file that it names, checked to lie where it may
    path : what errors call it

    Raises
    ------
    ModelError : as in `load_onnx`.
    """
    runtime = import_extra("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # what goes wrong is raised; the rest is chatter on stderr
    try:
        names = names_in(content)
        beside = [external(name) for name in names]
        if names and not hasattr(options, "add_external_initializers_from_files_in_memory"):
            raise ModelError(f"{path} has weights in {names[0]}", "Install a later onnxruntime, which takes them")
        if names:
            options.add_external_initializers_from_files_in_memory(names, beside, [len(data) for data in beside])
        session = runtime.InferenceSession(content, options, providers=_providers(runtime, device))
    except ModelError:
        raise
    except Exception as error:  # the runtime raises kinds of its own, without a common base
        raise ModelError(
            f"{path} cannot be read as ONNX: {files.first_line(error)}",
            "Export it again, for an opset that this onnxruntime knows",
        ) from error
    return _graph(session, path)


def _providers(runtime: Any, device: str) -> list[Any]:
    """The GPU where the network is to run on one and this onnxruntime can; the CPU takes what is left."""
    if not device.startswith("cuda"):
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise ModelError(
            "the network is to run on a GPU, for which this onnxruntime was not made", "Install onnxruntime-gpu"
        )
    number = device.partition(":")[2] or "0"
    settings = {"device_id": number, "cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}
    return [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]


def _graph(session: Any, path: Path) -> Graph:
    taken, given = session.get_inputs(), session.get_outputs()
    if len(taken) != 1 or len(given) != 1:
        raise ModelError(
            f"{path} takes {len(taken)} arrays and gives {len(given)}, not one each", "Export it with one of each"
        )
    shape, ndim = taken[0].shape, len(taken[0].shape)
    if taken[0].type != FLOAT or given[0].type != FLOAT or ndim not in (4, 5) or len(given[0].shape) != ndim:
        raise ModelError(
            f"{path} takes {taken[0].type} {shape} and gives {given[0].type} {given[0].shape}, not float32 volumes "
            "(N, channels, Z, Y, X) or planes (N, channels, Y, X)",
            "Export it for them",
        )
    batch, in_channels, *sides = (size if isinstance(size, int) else None for size in shape)
    out_channels = given[0].shape[1] if isinstance(given[0].shape[1], int) else None
    network = _applied(session, taken[0].name, given[0].name)
    if batch is not None:
        network = batches_of(network, batch)
    if ndim == 4:
        network, sides = planes(network), [None, *sides]
    return Graph(network, in_channels, out_channels, (sides[0], sides[1], sides[2]), _stated(session))


def _stated(session: Any) -> object:
    """chunkflow.json in the metadata, as values; what is no JSON as text, for `Stated` to refuse."""
    text = session.get_modelmeta().custom_metadata_map.get(EXTRA_FILE, "{}")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _applied(session: Any, taken: str, given: str) -> Network:
    """The session as a function of tensors: without copies on the CPU, through the host from a GPU and back."""
    torch = import_torch()

    def apply(batch: Tensor) -> Tensor:
        (result,) = session.run([given], {taken: batch.float().contiguous().cpu().numpy()})
        tensor: Tensor = torch.from_numpy(result)
        return tensor.to(batch.device)

    return apply
