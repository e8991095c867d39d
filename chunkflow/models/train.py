"""The training loop: patches in, weights out, and the same weights wherever it was interrupted.

    sample 0, 1, 2 ...  ->  batch  ->  loss  ->  AdamW  ->  running mean  --every so often-->  validation -> best
    (threads, ahead)                                                     \\ --every so often-->  checkpoint

Nothing of a step depends on anything but its number, the weights and the optimizer: samples are made from their number,
the learning rate follows from the step. So a checkpoint of weights, optimizer and mean is all there is to know, and on
a CPU, with one number of threads, an interrupted training ends with the bits of an uninterrupted one. On a GPU torch's
convolutions and pools add up in any order, and the last digits differ from run to run.

A training holds five copies of the weights, and the network's activations for one batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chunkflow.errors import ModelError
from chunkflow.models.batches import Batches, Patches
from chunkflow.models.checkpoint import FORMAT, read_checkpoint, write_checkpoint
from chunkflow.models.distributed import Group, agreed, together, told_by_first, with_common_statistics
from chunkflow.models.losses import LossFunction, loss_function
from chunkflow.models.recipe import Recipe

Apply: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Validate: TypeAlias = Callable[[Apply], Mapping[str, float]]
Listener: TypeAlias = Callable[[Mapping[str, Any]], None]
Weights: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came out.

    weights : of the best validation, or of the last step where nothing was validated
    step : steps done
    best : the scores of the validation that the weights are of, with its step
    losses : (step,) of every step
    validations : scores of each, with its step
    ended : "steps" when all were done, "patience" when no validation was better for long, "stopped" when asked to
    threads : of torch on a CPU
    waited : seconds of this call in which the network waited for patches
    seconds : of this call
    """

    weights: Weights
    step: int
    best: Mapping[str, float]
    losses: NDArray[np.float64]
    validations: tuple[Mapping[str, float], ...]
    ended: str
    threads: int
    waited: float
    seconds: float


def train_network(
    network: nn.Module,
    patches: Patches,
    recipe: Recipe,
    *,
    activation: str,
    validate: Validate | None = None,
    score: str = "",
    lower_is_better: bool = False,
    frozen: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    on_event: Listener | None = None,
    should_stop: Callable[[], bool] | None = None,
    device: str = "cpu",
    group: Group | None = None,
    sampling_threads: int = 2,
) -> Trained:
    """Train a network in place, from the checkpoint where there is one.

    Parameters
    ----------
    network : (N, C, Z, Y, X) float32 -> (N, K, Z, Y, X) without activation; on the CPU
    activation : "sigmoid", "softmax" or "none": what the outputs are, for the loss and for validation
    validate : gives scores; called with a function that applies the mean network, (N, C, Z, Y, X) float32 ->
        (N, K, Z, Y, X) float32 with activation
    score : the one of them by which weights are kept and patience is counted
    frozen : child modules whose weights and statistics stay as they are
    checkpoint : file to go on from and to write; None for none
    on_event : told of every step and validation, in process 0
    should_stop : asked after every step; the training then writes its checkpoint and returns
    device : "cpu" or a torch name such as "cuda:1"
    group : the processes that train together, joined already

    Raises
    ------
    ModelError : the loss is not finite, or the checkpoint is not one of this network.
    """
    group = group or Group()
    began = monotonic()
    saved = read_checkpoint(checkpoint)
    threads = int(saved["threads"]) if saved else recipe.threads or torch.get_num_threads()
    with _settled(threads, device):
        loop = _Loop(network, recipe, frozen, device, group)
        if saved:
            loop.load(saved)
        first = told_by_first(group, loop.step, device)
        if first != loop.step:
            raise ModelError(
                f"process {group.rank} goes on from step {loop.step}, process 0 from step {first}",
                "Give an output folder that all processes see at the same path",
            )
        loss = loss_function(recipe.loss_for(activation), activation)
        judge = _Judge(validate, score, lower_is_better)
        batches = Batches(patches, recipe, loop.step, group, sampling_threads)
        tell = on_event if on_event is not None and group.is_first else lambda event: None
        path = Path(checkpoint) if checkpoint is not None and group.is_first else None
        try:
            ended = _run(loop, batches, loss, activation, judge, tell, should_stop or (lambda: False), path)
        finally:
            batches.close()
        if path is not None:
            write_checkpoint(path, loop.to_dict(threads))
        return Trained(
            weights=loop.kept(),
            step=loop.step,
            best=dict(loop.best),
            losses=np.array(loop.losses),
            validations=tuple(loop.validations),
            ended=ended,
            threads=threads,
            waited=batches.waited,
            seconds=monotonic() - began,
        )


def _run(
    loop: _Loop,
    batches: Batches,
    loss: LossFunction,
    activation: str,
    judge: _Judge,
    tell: Listener,
    should_stop: Callable[[], bool],
    path: Path | None,
) -> str:
    """Steps until an end; why it ended."""
    recipe, group = loop.recipe, loop.group
    while loop.step < recipe.steps:
        if recipe.patience is not None and loop.in_vain >= recipe.patience:
            return "patience"
        rate = recipe.rate(loop.step)
        value, stop = agreed(group, loop.learn(batches.take(loop.device), loss, rate), should_stop())
        if not isfinite(value):
            raise ModelError(
                f"the loss of step {loop.step} is {value}", "Lower the learning rate, or check the images for NaN"
            )
        loop.losses.append(value)
        loop.step += 1
        event = {"event": "step", "step": loop.step, "steps": recipe.steps, "loss": value, "learning_rate": rate}
        tell({**event, "waited": batches.waited})
        if judge.validate is not None and (loop.step % recipe.validate_every == 0 or loop.step == recipe.steps):
            if group.is_first:
                scores = loop.judged(judge, activation)
                tell({"event": "validation", "step": loop.step, "scores": scores, "is_best": loop.in_vain == 0})
            loop.in_vain = told_by_first(group, loop.in_vain, loop.device)
        if path is not None and (loop.step % recipe.checkpoint_every == 0 or stop):
            write_checkpoint(path, loop.to_dict(torch.get_num_threads()))
        if stop and loop.step < recipe.steps:
            return "stopped"
    return "steps"


@dataclass(frozen=True, slots=True)
class _Judge:
    """How a network is scored."""

    validate: Validate | None
    score: str
    lower_is_better: bool

    def is_better(self, scores: Mapping[str, float], best: Mapping[str, float]) -> bool:
        if self.score not in scores:
            raise ModelError(f"validation gives no score {self.score!r}", f"It gives {', '.join(scores)}")
        new, old = scores[self.score], best.get(self.score)
        if not isfinite(new):
            return False
        return old is None or (new < old if self.lower_is_better else new > old)


class _Loop:
    """Everything that changes while a network is trained."""

    def __init__(self, network: nn.Module, recipe: Recipe, frozen: Sequence[str], device: str, group: Group) -> None:
        self.recipe, self.device, self.group = recipe, device, group
        self.frozen = tuple(frozen)
        for name in self.frozen:
            network.get_submodule(name).requires_grad_(False)
        layout: Any = {"device": device, "memory_format": _layout(device, group.count)}
        self.network = with_common_statistics(network, group, device).to(**layout)
        self.mean = copy.deepcopy(self.network).requires_grad_(False).eval()
        learning = [p for p in self.network.parameters() if p.requires_grad]
        if not learning:
            raise ModelError("no weights are left to learn: all are frozen", "Freeze the encoder alone")
        self.trained = together(self.network, group, device)
        self.optimizer = torch.optim.AdamW(learning, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.precision = _precision(recipe.precision, device)
        self.scaler = torch.amp.GradScaler(device.split(":")[0], enabled=self.precision is torch.float16)
        self.step = 0
        self.in_vain = 0
        self.best: dict[str, float] = {}
        self.best_weights: Weights | None = None
        self.losses: list[float] = []
        self.validations: list[dict[str, float]] = []

    def learn(self, batch: tuple[Tensor, Tensor, Tensor], loss: LossFunction, rate: float) -> Tensor:
        """One step; the loss before it."""
        image, target, weight = batch
        self.network.train()
        for name in self.frozen:
            self.network.get_submodule(name).eval()  # or batch norms would go on counting
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.split(":")[0], dtype=self.precision, enabled=self.precision != torch.float32):
            outputs = self.trained(image.contiguous(memory_format=_layout(self.device, self.group.count)))
        value = loss(outputs, target, weight)
        self.scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._average()
        return value.detach()

    def _average(self) -> None:
        """Move the running mean towards the weights."""
        share = 1 - self.recipe.decay(self.step)
        with torch.no_grad():
            means, values = self.mean.state_dict().values(), self.network.state_dict().values()
            for mean, value in zip(means, values, strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, share)
                else:
                    mean.copy_(value)

    def judged(self, judge: _Judge, activation: str) -> dict[str, float]:
        """Validate the mean network and keep it where it is the best so far; its scores."""
        assert judge.validate is not None
        scores = {
            name: float(value) for name, value in judge.validate(applied(self.mean, activation, self.device)).items()
        }
        is_best = judge.is_better(scores, self.best)
        self.validations.append({"step": self.step, **scores})
        self.in_vain = 0 if is_best else self.in_vain + 1
        if is_best:
            self.best = self.validations[-1]
            self.best_weights = _copied(self.mean.state_dict())
        return scores

    def kept(self) -> Weights:
        """The weights to use: of the best validation, else the mean."""
        return _copied(self.mean.state_dict()) if self.best_weights is None else _copied(self.best_weights)

    def to_dict(self, threads: int) -> dict[str, Any]:
        """All that a training needs to go on: tensors, numbers, texts, lists and maps."""
        return {
            "format": FORMAT,
            "step": self.step,
            "threads": threads,
            "network": self.network.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "in_vain": self.in_vain,
            "best": self.best,
            "best_weights": self.best_weights,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "validations": self.validations,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `to_dict` gave.

        Raises
        ------
        ModelError : it is of another network.
        """
        try:
            self.network.load_state_dict(saved["network"])
            self.mean.load_state_dict(saved["mean"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelError("the checkpoint is of another network", "Start the training over") from error
        if saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
        self.step, self.in_vain = saved["step"], saved["in_vain"]
        self.best, self.best_weights = dict(saved["best"]), saved["best_weights"]
        self.losses = saved["losses"].tolist()
        self.validations = [dict(scores) for scores in saved["validations"]]


def applied(network: nn.Module, activation: str, device: str = "cpu") -> Apply:
    """The network as a function of arrays, (N, C, Z, Y, X) float32 -> (N, K, Z, Y, X) float32, one patch at a time."""

    def apply(patches: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            results = [_activated(network(_on(patches[i : i + 1], device)), activation) for i in range(len(patches))]
        return np.concatenate([result.cpu().numpy() for result in results])

    return apply


def _on(patches: NDArray[np.float32], device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(patches)).to(device, memory_format=_layout(device))


def _activated(outputs: Tensor, activation: str) -> Tensor:
    if activation == "softmax":
        return torch.softmax(outputs.float(), 1)
    return torch.sigmoid(outputs.float()) if activation == "sigmoid" else outputs.float()


def _copied(weights: Mapping[str, Tensor]) -> Weights:
    return {name: value.detach().cpu().clone() for name, value in weights.items()}


def _layout(device: str, processes: int = 1) -> torch.memory_format:
    """How volumes lie in memory: with the channels last, a step on a CPU takes two thirds of the time.

    Processes exchange gradients in buckets that lie the usual way.
    """
    usual = device.startswith("cuda") or processes > 1
    return torch.contiguous_format if usual else torch.channels_last_3d


def _precision(wanted: str, device: str) -> torch.dtype:
    """Of the forward pass; a CPU has float32 alone: its bfloat16 is many times slower where units are missing."""
    if not device.startswith("cuda"):
        return torch.float32
    if wanted == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    found: torch.dtype = getattr(torch, wanted)
    return found


@contextmanager
def _settled(threads: int, device: str) -> Iterator[None]:
    """Torch with so many threads and, on a CPU, one algorithm for everything; as it was afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(not device.startswith("cuda"))
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
