"""The processes of a training: this one, and one more for every further GPU.

    this process   reads numbers of whole volumes, validates, writes, tells      rank 0
    the others     make their samples and train                                 ranks 1, 2 ... (spawned)

They meet at a free port of this machine. Ctrl-C is this process's: the others end when it says so. When one of them
dies, torch's next exchange fails here; when this one dies, it fails there.
"""

from __future__ import annotations

import multiprocessing
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chunkflow.errors import ConfigError, ModelError
from chunkflow.run import validation
from chunkflow.run.block_cache import BlockCache
from chunkflow.run.foreground import Foreground
from chunkflow.run.patches import Region, SampledPatches
from chunkflow.run.training import Training
from chunkflow.run.training_network import network_of

if TYPE_CHECKING:
    from chunkflow.models.distributed import Group
    from chunkflow.models.train import Trained
    from chunkflow.models.unet import UNet

Listener = Callable[[Mapping[str, Any]], None]
GOODBYE = 30.0
"""Seconds for a process to end by itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What every process needs to train: small, and it pickles.

    learn : regions to sample from; foreground : where objects are in them
    validates : whether the first process has examples to score
    """

    training: Training
    learn: tuple[Region, ...]
    foreground: Foreground | None
    checkpoint: str
    device: str
    validates: bool

    def train(
        self,
        network: UNet,
        cache: BlockCache,
        examples: Sequence[validation.Example],
        group: Group,
        tell: Listener,
        should_stop: Callable[[], bool],
    ) -> Trained:
        """Train in this process; see `models.train.train_network`."""
        from chunkflow.models.begin import ENCODER
        from chunkflow.models.train import train_network

        training, target = self.training, self.training.target
        patches = SampledPatches(
            regions=self.learn,
            foreground=self.foreground,
            share=training.foreground,
            target=target,
            patch=training.patch,
            augment=training.augment,
            seed=training.recipe.seed,
            cache=cache,
            beyond=training.beyond,
        )
        score = training.validation.score or validation.usual_score(target)
        # Every process is told whether there is validation, which is the first one's alone.
        judged = validation.validator(examples, target, training.patch, network.config.stride)
        return train_network(
            network,
            patches,
            training.recipe,
            activation=target.activation,
            validate=judged if self.validates else None,
            score=score,
            lower_is_better=score in validation.LOWER_IS_BETTER,
            frozen=ENCODER if training.freeze else (),
            checkpoint=self.checkpoint,
            on_event=tell,
            should_stop=should_stop,
            device=_own(self.device, group.rank, group.count),
            group=group,
        )


def device_of(wanted: str, workers: int, training: Training) -> str:
    """Where it is trained, as torch names it.

    Raises
    ------
    ModelError : there is no GPU, or there are too few.
    ConfigError : a batch cannot be shared by so many processes.
    """
    import torch

    if workers < 1 or training.recipe.batch % workers:
        raise ConfigError(
            f"a batch of {training.recipe.batch} patches for {workers} processes",
            "Use a batch that is a multiple of the processes",
        )
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = ("cuda" if gpus else "cpu") if wanted == "auto" else "cuda" if wanted == "gpu" else wanted
    if found.startswith("cuda") and not gpus:
        raise ModelError(f"the training is to run on {wanted!r}, where torch finds no GPU", "Install torch with CUDA")
    if found.startswith("cuda") and workers > gpus:
        raise ModelError(f"{workers} processes on {gpus} GPUs", f"Use --workers {gpus}")
    return found


def _own(device: str, rank: int, count: int) -> str:
    return f"cuda:{rank}" if count > 1 and device.startswith("cuda") else device


@contextmanager
def process_group(work: Work, workers: int) -> Iterator[Group]:
    """This process as the first of so many, the others running until the block ends."""
    from chunkflow.models.distributed import Group, joined

    if workers == 1:
        yield Group()
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_other, args=(work, rank, workers, address), daemon=True) for rank in range(1, workers)
    ]
    for process in others:
        process.start()
    group = Group(rank=0, count=workers, address=address)
    try:
        with joined(group, work.device):
            yield group
        for process in others:
            process.join(GOODBYE)
    finally:
        for process in others:
            if process.is_alive():
                process.terminate()


def _other(work: Work, rank: int, count: int, address: str) -> None:
    """A process beside the first."""
    from chunkflow.models.distributed import Group, joined

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    group = Group(rank=rank, count=count, address=address)
    cache = BlockCache(int(work.training.cache_gib * 2**30 / count))
    with joined(group, _own(work.device, rank, count)):
        work.train(network_of(work.training), cache, [], group, lambda event: None, lambda: False)
