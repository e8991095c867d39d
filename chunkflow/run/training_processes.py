"""The processes of a training: this one, and one more for every further GPU.

    this process   reads numbers of whole volumes, validates, writes, tells      rank 0
    the others     make their samples and train                                 ranks 1, 2 ...

The others are started here and meet at a free port of this machine, or torchrun started all of them, on this machine
and others; then the first tells them what there is to do. Ctrl-C is the first one's: the others end when it says so.
When one of them dies, torch's next exchange fails here; when this one dies, it fails there.
"""

from __future__ import annotations

import multiprocessing
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chunkflow.errors import ConfigError, ModelError
from chunkflow.models.model import import_torch
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
            device=group.own(self.device),
            group=group,
        )


def device_of(wanted: str, workers: int, training: Training, started: Group | None = None) -> str:
    """Where it is trained, as torch names it.

    started : the processes, where something else started them

    Raises
    ------
    ModelError : torch is missing, there is no GPU, or there are too few.
    ConfigError : a batch cannot be shared by so many processes, or more are asked for than were started.
    """
    torch = import_torch()
    if started is not None and workers > 1:
        raise ConfigError(f"{workers} workers, and torchrun started {started.count} processes", "Leave --workers out")
    count, here = (workers, workers) if started is None else (started.count, started.beside)
    if count < 1 or training.recipe.batch % count:
        raise ConfigError(
            f"a batch of {training.recipe.batch} patches for {count} processes",
            "Use a batch that is a multiple of the processes",
        )
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = ("cuda" if gpus else "cpu") if wanted == "auto" else "cuda" if wanted == "gpu" else wanted
    if found.startswith("cuda") and not gpus:
        raise ModelError(f"the training is to run on {wanted!r}, where torch finds no GPU", "Install torch with CUDA")
    if found.startswith("cuda") and here > gpus:
        option = "--workers" if started is None else "--nproc-per-node"
        raise ModelError(f"{here} processes on {gpus} GPUs", f"Use {option} {gpus}")
    return found


def started_processes(environment: Mapping[str, str]) -> Group | None:
    """The processes that torchrun started, and which of them this is, by the variables that it sets: RANK, WORLD_SIZE,
    LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT. None where there is one.

    Raises
    ------
    ConfigError : some of them are missing, or no numbers.
    ModelError : torch is not installed.
    """
    if environment.get("WORLD_SIZE", "1").strip() in ("", "1"):
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    wrong = [name for name in names if not environment.get(name, "").isdecimal()]
    wrong += [] if environment.get("MASTER_ADDR") else ["MASTER_ADDR"]
    if wrong:
        raise ConfigError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']!r}, and what torchrun would set is missing: {', '.join(wrong)}",
            "Start the processes with torchrun, or unset WORLD_SIZE to train in one",
        )
    import_torch()
    from chunkflow.models.distributed import Group

    rank, count, local_rank, local_count, _ = (int(environment[name]) for name in names)
    return Group(rank=rank, count=count, local_rank=local_rank, local_count=local_count)


class Team:
    """The processes of a training as the first of them sees them: the others begin when there is work.

    started : by something else; None where they are to be started here
    """

    def __init__(self, started: Group | None) -> None:
        self.started = started
        self._told = False

    @contextmanager
    def met(self, device: str) -> Iterator[None]:
        """While this process is one of those that something else started; the others are let go at the end."""
        if self.started is None:
            yield
            return
        from chunkflow.models.distributed import joined, shared_by_first

        with joined(self.started, device):
            try:
                yield
            finally:
                if not self._told:
                    shared_by_first(self.started)

    @contextmanager
    def at_work(self, work: Work, workers: int) -> Iterator[Group]:
        """This process as the first of so many, the others at work until the block ends."""
        if self.started is None:
            with process_group(work, workers) as group:
                yield group
            return
        from chunkflow.models.distributed import shared_by_first

        self._told = True
        shared_by_first(self.started, work)
        yield self.started


def help_out(started: Group, training: Training, wanted: str) -> None:
    """What processes beside the first do, where something else started them: wait for work, and do it.

    Raises
    ------
    ModelError, ConfigError : as `device_of`, in every process alike.
    """
    from chunkflow.models.distributed import joined, shared_by_first

    device = started.own(device_of(wanted, 1, training, started))
    # While it waits in torch, no handler of Python's would be called. At work, the first alone hears, and tells it.
    with _stops(signal.SIG_DFL), joined(started, device):
        work = shared_by_first(started)
        if work is None:
            return
        cache = BlockCache(int(work.training.cache_gib * 2**30 / started.beside))
        with _stops(signal.SIG_IGN):
            work.train(network_of(work.training), cache, [], started, lambda event: None, lambda: False)


@contextmanager
def _stops(action: signal.Handlers) -> Iterator[None]:
    """While Ctrl-C and SIGTERM, which reach all processes, do that here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, action) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        with joined(group, group.own(work.device)):
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
    with joined(group, group.own(work.device)):
        work.train(network_of(work.training), cache, [], group, lambda event: None, lambda: False)
