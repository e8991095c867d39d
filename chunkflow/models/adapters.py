"""From what a foreign network takes and gives to what `Model.module` promises.

planes         a network for (N, C, Y, X): every plane by itself, receptive field 1 along z
batches of     a network that was made for one size of batch
probe          how many channels a network takes and gives, seen on zeros where its file does not tell: `probed_model`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from chunkflow.errors import ModelError
from chunkflow.models.files import first_line
from chunkflow.models.model import ONES, Model, Stated, Triple, import_torch

if TYPE_CHECKING:
    from torch import Tensor

Network = Callable[["Tensor"], "Tensor"]

PROBED_CHANNELS = (1, 2, 3, 4)
PROBE_SIDE = 32


def planes(network: Network) -> Network:
    """The network of planes, applied to every plane of a volume: (N, C, Z, Y, X) -> (N, K, Z, Y', X')."""

    def apply(patches: Tensor) -> Tensor:
        count, channels, depth, *sides = patches.shape
        folded = patches.transpose(1, 2).reshape(count * depth, channels, *sides)
        result = network(folded)
        return result.reshape(count, depth, *result.shape[1:]).transpose(1, 2)

    return apply


def batches_of(network: Network, size: int) -> Network:
    """A network made for batches of one size, applied to batches of any: the last is filled with zeros."""
    torch = import_torch()

    def apply(batch: Tensor) -> Tensor:
        if len(batch) == size:
            return network(batch)
        full = torch.cat((batch, batch.new_zeros((-len(batch) % size, *batch.shape[1:]))))
        results: Tensor = torch.cat([network(part) for part in full.split(size)])
        return results[: len(batch)]

    return apply


def probe_sides(stride: Triple, patch_min: Triple = ONES) -> Triple:
    """Sides of a small patch: the first multiples of the stride from 32 voxels and from what the network takes on."""
    z, y, x = (-(-max(PROBE_SIDE, least) // step) * step for step, least in zip(stride, patch_min, strict=True))
    return z, y, x


def probe(
    network: Network, path: Path, sides: Triple, *, upsampling: Triple, device: str, in_channels: int | None
) -> tuple[int, int]:
    """Channels in and out, and that the output has the size it should have, on a patch of zeros.

    in_channels : None tries 1, 2, 3 and 4

    Raises
    ------
    ModelError : the network takes no such patch, or gives something of another kind or size.
    """
    torch = import_torch()
    tried: Iterable[int] = PROBED_CHANNELS if in_channels is None else (in_channels,)
    causes = []
    for channels in tried:
        try:
            with torch.inference_mode():
                result = network(torch.zeros((1, channels, *sides), device=device))
        except Exception as error:  # interpreters and runtimes raise kinds of their own
            causes.append(_cause(error))
            continue
        wanted = tuple(side * factor for side, factor in zip(sides, upsampling, strict=True))
        got = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
        if not isinstance(result, torch.Tensor) or result.ndim != 5 or tuple(result.shape[2:]) != wanted:
            raise ModelError(
                f"{path} gives {got} for a patch (1, {channels}, {', '.join(map(str, sides))}), not (1, channels, "
                f"{', '.join(map(str, wanted))})",
                "State its upsampling, or use a network that keeps the shape",
            )
        return channels, result.shape[1]
    raise ModelError(
        f"{path} takes no patch (1, {in_channels or '1 to 4'}, {', '.join(map(str, sides))}): {causes[0]}",
        "State its stride and in_channels in chunkflow.json, as docs/models.md shows",
    )


def _cause(error: Exception) -> str:
    """What went wrong: an interpreter ends its report with that, below where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error:" in line]
    return (told[-1] if told else first_line(error))[:200]


def probed_model(
    module: Network,
    path: Path,
    digest: str,
    device: str,
    *,
    stated: Stated,
    kind: str,
    architecture: str,
) -> Model:
    """A network whose channels are found by applying it, the rest being stated.

    Raises
    ------
    ModelError : it takes and gives no volumes.
    """
    in_channels, out_channels = probe(
        module,
        path,
        probe_sides(stated.stride),
        upsampling=stated.upsampling,
        device=device,
        in_channels=stated.in_channels,
    )
    return Model(
        module,
        digest,
        stated.stride,
        out_channels,
        device,
        in_channels=in_channels,
        upsampling=stated.upsampling,
        usage=stated.usage,
        kind=kind,
        architecture=architecture,
        patch_min=stated.stride,
    )
