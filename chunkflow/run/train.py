"""Train a network on OME-Zarr pairs, and leave a folder that `predict` loads.

    MODEL/
      model.yaml  weights.safetensors  rdf.yaml    the network, once it is trained
      training.json  report.html                   how it was trained: parameters, data, versions, curves
      training/                                    while it is being trained: description.json, checkpoint.pt

The description is the training with every default spelt out and the identity of its data. The same description goes on
from the checkpoint; another one is refused. On a CPU the weights are those of a training that was never interrupted.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import InputChangedError, InputError, UsageError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.models.usage import Normalization
from chunkflow.run import validation
from chunkflow.run.block_cache import BlockCache
from chunkflow.run.foreground import Foreground, find_foreground
from chunkflow.run.lock import OutputLock
from chunkflow.run.patches import Region
from chunkflow.run.training import Training
from chunkflow.run.training_data import Data, open_data, regions_of
from chunkflow.run.training_export import EXPORTED, RECORD, export
from chunkflow.run.training_network import check_patch, network_of
from chunkflow.run.training_processes import Team, Work, device_of, help_out
from chunkflow.storage.copies import copied
from chunkflow.storage.files import sweep_partial_files, write_atomic
from chunkflow.storage.identity import identity

if TYPE_CHECKING:
    from chunkflow.models.distributed import Group
    from chunkflow.models.unet import UNet

__all__ = ["TrainedModel", "Training", "train"]

Listener = Callable[[Mapping[str, Any]], None]

WORK, DESCRIPTION, CHECKPOINT = "training", "description.json", "checkpoint.pt"
SAMPLE_SIDE = 16
"""Voxels along an axis that the test input of a package has at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A trained network on disk.

    path : its folder, for `predict` and `load_model`
    scores : of the validation that its weights are of; empty where nothing was validated
    record : the content of training.json
    """

    path: Path
    scores: Mapping[str, float]
    record: Mapping[str, Any]


def train(
    training: Training | Mapping[str, Any] | str | Path,
    output: str | Path,
    *,
    device: str = "auto",
    workers: int = 1,
    restart: bool = False,
    on_event: Listener | None = None,
    started: Group | None = None,
) -> TrainedModel:
    """Train a network, or go on with a training that was interrupted; one that is complete is left as it is.

    Parameters
    ----------
    training : the description, what its file would hold, or the file.
    output : folder of the network.
    device : "auto" (a GPU where torch finds one), "gpu", "cpu" or a torch name.
    workers : processes that train together, each on a GPU of its own and on its share of every batch.
    started : the processes, where torchrun started them (`run.training_processes.started_processes(os.environ)`). Each
        of them calls this; all but the first return an empty record.
    restart : start over where the folder holds another training, or one that is complete.
    on_event : told of what happens: maps with "event", one of "reading", "start", "step", "validation", "end".

    Raises
    ------
    UsageError : the description does not fit the data or the network, or the folder holds something else.
    InputChangedError : images or labels are not those that the training began with.
    OutputInUseError : another process trains there.
    KeyboardInterrupt : Ctrl-C or SIGTERM; the checkpoint holds every step that was done.
    """
    described = _described(training)
    folder, tell = Path(output), on_event or (lambda event: None)
    if started is not None and not started.is_first:
        help_out(started, described, device)
        return TrainedModel(path=folder, scores={}, record={})
    where = device_of(device, workers, described, started)
    data = open_data(described)
    network = network_of(described)
    check_patch(described, network)
    _check_score(described)
    description = _description(described, data)
    _check_output(folder, restart)
    team = Team(started)
    with team.met(where if started is None else started.own(where)), OutputLock(folder / WORK):
        if restart:
            _clear(folder)
        done = _finished(folder, description)
        if done is not None:
            tell({"event": "end", "output": str(folder), "scores": dict(done.scores), "step": done.record["step"]})
            return done
        sweep_partial_files(folder / WORK)
        record = _train(described, data, network, folder, description, where, workers, team, tell)
        (folder / WORK / CHECKPOINT).unlink(missing_ok=True)
        tell({"event": "end", "output": str(folder), "scores": _scores(record), "step": record["step"]})
    return TrainedModel(path=folder, scores=_scores(record), record=record)


def _train(
    training: Training,
    data: Data,
    network: UNet,
    folder: Path,
    description: Mapping[str, Any],
    device: str,
    workers: int,
    team: Team,
    tell: Listener,
) -> dict[str, Any]:
    """Read what is to be known of the data, train, and export; the record.

    Raises
    ------
    KeyboardInterrupt : it was asked to stop.
    """
    tell({"event": "reading", "volumes": sum(len(pair.volumes) for pair in data.pairs)})
    learn, validate = regions_of(data, training)
    foreground = _foreground(training, learn)
    cache = BlockCache(int(training.cache_gib * 2**30))
    examples = _examples(training, validate, cache)
    work = Work(training, learn, foreground, str(folder / WORK / CHECKPOINT), device, bool(examples))
    write_atomic(folder / WORK / DESCRIPTION, (json.dumps(description, indent=1) + "\n").encode())
    score = _score(training) if examples else None
    count = workers if team.started is None else team.started.count
    tell({"event": "start", "steps": training.recipe.steps, "device": device, "workers": count, "score": score})
    with _stoppable() as should_stop, team.at_work(work, workers) as group:
        trained = work.train(network, cache, examples, group, tell, should_stop)
    if trained.ended == "stopped":
        raise KeyboardInterrupt
    sample = _sample(training, network, (validate or learn)[0], cache)
    return export(training, data, network, trained, folder, description, device, examples, sample)


def _described(training: Training | Mapping[str, Any] | str | Path) -> Training:
    if isinstance(training, Training):
        return _settled(training)
    return _settled(Training.from_dict(training) if isinstance(training, Mapping) else Training.from_yaml(training))


def _settled(training: Training) -> Training:
    """With a normalization: a network that goes on learning sees grey values as it did."""
    if training.normalization is not None:
        return training
    if training.start is None:
        return replace(training, normalization=Normalization(kind="percentiles"))
    from chunkflow.models.load import load_model

    return replace(training, normalization=load_model(copied(training.start)).usage.normalization)


def _check_score(training: Training) -> None:
    names = validation.score_names(training.target)
    if _score(training) not in names:
        raise UsageError(f"validation: score {_score(training)!r} is not known", f"Use one of {', '.join(names)}")


def _description(training: Training, data: Data) -> dict[str, Any]:
    """What makes a training this one: every parameter, and which data."""
    digests = {f"{v.path} {list(v.at)}": _digest(identity(v)) for pair in data.pairs for v in pair.volumes}
    start = None
    if training.start is not None:
        from chunkflow.models.load import digest_of

        start = digest_of(copied(training.start))
    return {"training": training.to_dict(), "data": digests, "start": start}


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _check_output(folder: Path, restart: bool) -> None:
    """Refuse a folder that holds something else.

    Raises
    ------
    UsageError : it does.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "Choose another output")
    ours = (folder / WORK / DESCRIPTION).is_file() or (folder / RECORD).is_file()
    if folder.is_dir() and not ours and any(path.name != WORK for path in folder.iterdir()):
        raise UsageError(f"{folder} holds something that is no training", "Choose another output")


def _clear(folder: Path) -> None:
    """Take away what an earlier training left, its network too, or that would be taken for the new one's."""
    for path in (RECORD, *EXPORTED, f"{WORK}/{DESCRIPTION}", f"{WORK}/{CHECKPOINT}"):
        (folder / path).unlink(missing_ok=True)


def _finished(folder: Path, description: Mapping[str, Any]) -> TrainedModel | None:
    """The network in the folder, if it is complete; None if it is to be trained.

    Raises
    ------
    UsageError : the folder holds another training.
    InputChangedError : it holds this one, on data that were changed.
    """
    known = [file for file in (folder / WORK / DESCRIPTION, folder / RECORD) if file.is_file()]
    for file in known:
        _compare(json.loads(file.read_text(encoding="utf-8")), description, folder)
    if folder / RECORD not in known:
        return None
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return TrainedModel(path=folder, scores=_scores(record), record=record)


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    plain = json.loads(json.dumps(new))
    changed = set(_differences(_spelt_out(old["training"]), plain["training"]))
    if old["start"] == plain["start"]:
        changed.discard("from")  # the same network, which lies elsewhere
    if changed:
        names = sorted(changed)[:6]
        raise UsageError(
            f"{folder} holds another training: {', '.join(names)} differ{'s' if len(changed) == 1 else ''}",
            "Choose another output, or add --restart",
        )
    if old["data"] != plain["data"] or old["start"] != plain["start"]:
        names = [name for name in plain["data"] if old["data"].get(name) != plain["data"][name]]
        raise InputChangedError(
            f"{', '.join(names) or plain['training']['from']} changed since this training began",
            "Add --restart to train on what is there now",
        )


def _spelt_out(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored description with the defaults of parameters that an older version did not have."""
    try:
        plain: Mapping[str, Any] = json.loads(json.dumps(Training.from_dict(stored).to_dict()))
        return plain
    except UsageError:
        return stored


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Keys whose values differ, joined by dots."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {*old, *new}:
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif old != new:
        yield where


def _foreground(training: Training, learn: tuple[Region, ...]) -> Foreground | None:
    """Where objects are; None where nothing says what an object is.

    Raises
    ------
    InputError : there are none.
    """
    if training.target.kind == "image":
        return None
    found = find_foreground([(region.labels, region.box) for region in learn], training.target)
    if not len(found.present):
        raise InputError("the labels hold no foreground at all", "Check pairs and target: ignore")
    return found


def _examples(training: Training, validate: tuple[Region, ...], cache: BlockCache) -> list[validation.Example]:
    """The boxes that are scored."""
    if not validate:
        return []
    return validation.examples(
        validate,
        training.target,
        side=training.validation.box or _twice(training.patch),
        count=training.validation.boxes,
        seed=training.recipe.seed,
        cache=cache,
    )


def _score(training: Training) -> str:
    return training.validation.score or validation.usual_score(training.target)


def _twice(patch: Triple) -> Triple:
    z, y, x = (2 * n if n > 1 else 1 for n in patch)
    return z, y, x


def _sample(training: Training, network: UNet, region: Region, cache: BlockCache) -> NDArray[Any]:
    """(C, Z, Y, X) grey values from the middle of a region: the test input of the package."""
    stride = network.config.stride
    side = [max(p, -(-SAMPLE_SIDE // s) * s) for p, s in zip(training.patch, stride, strict=True)]
    start = [a + (n - m) // 2 for a, n, m in zip(region.box.start, region.box.shape, side, strict=True)]
    box = Box(triple(start), triple([a + m for a, m in zip(start, side, strict=True)]))
    return np.stack([cache.read_mirrored(volume, box, region.box) for volume in region.images])


def _scores(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record["best"].items() if name != "step"}


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came: the step that is being done is finished first. A second one does not wait."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
