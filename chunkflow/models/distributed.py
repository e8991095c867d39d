"""Several processes that train one network, each on its share of every batch (torch DistributedDataParallel).

    batch 0 1 2 3       process 0: 0 2      gradients are averaged over the processes after each backward pass,
                        process 1: 1 3      so weights stay equal everywhere

Process 0 alone validates, writes and tells the others when to stop. GPUs talk by NCCL, CPUs by gloo. Batch norm takes
its statistics over all GPUs together; over CPUs, where torch has no such thing, each process its own.

The processes are started here, on one machine, or by torchrun on several: then they find each other by its variables.
What they say to each other is not encrypted, and Python objects among it: they belong on a network that is trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

WAIT = timedelta(hours=2)
"""For a process that validates or loads, before the others give up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The processes of a training.

    rank : which one this is, from 0
    count : how many there are
    address : where they meet, as torch names it: "tcp://HOST:PORT", or "env://" under torchrun
    local_rank, local_count : the same of the processes on this machine; None where all of them are
    """

    rank: int = 0
    count: int = 1
    address: str = "env://"
    local_rank: int | None = None
    local_count: int | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process validates and writes."""
        return self.rank == 0

    @property
    def beside(self) -> int:
        """Processes on this machine."""
        return self.count if self.local_count is None else self.local_count

    def own(self, device: str) -> str:
        """The device of this process: a GPU of its own, where they train on GPUs."""
        number = self.rank if self.local_rank is None else self.local_rank
        return f"cuda:{number}" if self.count > 1 and device.startswith("cuda") else device


@contextmanager
def joined(group: Group, device: str) -> Iterator[None]:
    """While this process is one of the group; nothing for a group of one."""
    if group.count == 1:
        yield
        return
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if group.local_rank is not None and backend == "nccl":
        backend = "cpu:gloo,cuda:nccl"  # the first has objects to share, which need no GPU
    distributed.init_process_group(
        backend, init_method=group.address, rank=group.rank, world_size=group.count, timeout=WAIT
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def together(network: nn.Module, group: Group, device: str) -> nn.Module:
    """The network as all processes train it: its backward pass averages the gradients."""
    if group.count == 1:
        return network
    ids: Any = [torch.device(device).index or 0] if device.startswith("cuda") else None
    return DistributedDataParallel(network, device_ids=ids)


def with_common_statistics(network: nn.Module, group: Group, device: str) -> nn.Module:
    """The network with batch norms that see the batches of all GPUs."""
    if group.count == 1 or not device.startswith("cuda"):
        return network
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


def agreed(group: Group, loss: torch.Tensor, stop: bool) -> tuple[float, bool]:
    """The mean loss of all processes, and whether any of them is to stop."""
    if group.count == 1:
        return float(loss), stop
    both = torch.stack([loss.detach().float(), torch.tensor(float(stop), device=loss.device)])
    distributed.all_reduce(both)
    mean, stops = (both / torch.tensor([group.count, 1.0], device=loss.device)).tolist()
    return mean, stops > 0


def shared_by_first(group: Group, value: Any = None) -> Any:
    """The object that process 0 gives; the others wait for it."""
    words = [value]
    distributed.broadcast_object_list(words, src=0, device=torch.device("cpu"))
    return words[0]


def told_by_first(group: Group, value: int, device: str) -> int:
    """What process 0 says; the others wait for it."""
    if group.count == 1:
        return value
    word = torch.tensor([value], dtype=torch.int64, device=device)
    distributed.broadcast(word, 0)
    return int(word.item())
