"""A training can be stopped anywhere and ends with the same bits; several processes are as one."""

import errno
import io
import multiprocessing
import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.errors import DiskFullError, ModelError  # noqa: E402
from chunkflow.models.begin import ENCODER  # noqa: E402
from chunkflow.models.checkpoint import read_checkpoint, write_checkpoint  # noqa: E402
from chunkflow.models.distributed import Group, joined  # noqa: E402
from chunkflow.models.recipe import Loss, Recipe  # noqa: E402
from chunkflow.models.train import Trained, train_network  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402

SIDE = 8


class Spots:
    """Bright voxels are foreground; a sample follows from its number."""

    def sample(self, number):
        image = np.random.default_rng(number).standard_normal((1, SIDE, SIDE, SIDE)).astype(np.float32)
        target = (image > 0.5).astype(np.float32)
        return image, target, np.ones_like(target)


def network(norm="batch", seed=0):
    torch.manual_seed(seed)
    return UNet(UNetConfig(widths=(4, 8), norm=norm))


def recipe(**changes):
    usual = {"steps": 10, "batch": 2, "warm_up": 2, "threads": 1, "validate_every": 3, "checkpoint_every": 2}
    return Recipe(**{**usual, **changes})


def validate(apply):
    """The mean distance of the outputs to one half: any number that follows from the weights."""
    image, _, _ = Spots().sample(1000)
    return {"score": float(np.abs(apply(image[None]) - 0.5).mean())}


def run(folder=None, *, stop_at=None, changes=None, **options) -> Trained:
    steps = []
    return train_network(
        options.pop("network", None) or network(),
        options.pop("patches", Spots()),
        recipe(**(changes or {})),
        activation="sigmoid",
        validate=validate,
        score="score",
        checkpoint=None if folder is None else folder / "checkpoint.pt",
        on_event=lambda event: steps.append(event["step"]) if event["event"] == "step" else None,
        should_stop=lambda: stop_at is not None and len(steps) + 1 >= stop_at,
        **options,
    )


def assert_same(one: Trained, other: Trained) -> None:
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name]), name
    assert one.losses.tolist() == other.losses.tolist()
    assert one.validations == other.validations
    assert one.best == other.best


@pytest.fixture(scope="module")
def uninterrupted() -> Trained:
    return run()


def test_the_same_seed_gives_the_same_bits_and_another_number_of_sampling_threads_too(uninterrupted):
    assert_same(uninterrupted, run(sampling_threads=1))


@pytest.mark.parametrize("stop_at", [1, 3, 4, 9])
def test_a_training_that_was_stopped_ends_with_the_bits_of_one_that_was_not(uninterrupted, tmp_path, stop_at):
    first = run(tmp_path, stop_at=stop_at)
    assert (first.ended, first.step) == ("stopped", stop_at)
    # Another network object with other weights: all must come from the checkpoint.
    second = run(tmp_path, network=network(seed=5))
    assert (second.ended, second.step) == ("steps", 10)
    assert_same(uninterrupted, second)


def test_stopping_several_times_changes_nothing(uninterrupted, tmp_path):
    for _ in range(4):
        run(tmp_path, stop_at=2)
    assert_same(uninterrupted, run(tmp_path))


def _train_until_killed(folder, at, where):
    """In a process of its own: dies by SIGKILL after a step, or while the checkpoint of that step is being written."""
    if where == "writing":
        written = []
        save = torch.save

        def dying(content, file):
            written.append(content["step"])
            if content["step"] == at:
                file.write(b"half of a checkpoint")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            save(content, file)

        torch.save = dying
        run(Path(folder))
    else:
        run(Path(folder), patches=Deadly(at))


class Deadly(Spots):
    """Kills its process when it is asked for a sample of a step."""

    def __init__(self, step):
        self.number = 2 * step

    def sample(self, number):
        if number == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(number)


@pytest.mark.parametrize(("at", "where"), [(7, "sampling"), (4, "writing"), (2, "writing")])
def test_a_killed_training_ends_with_the_bits_of_one_that_was_not(uninterrupted, tmp_path, at, where):
    process = multiprocessing.get_context("fork").Process(target=_train_until_killed, args=(tmp_path, at, where))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    partials = list(tmp_path.glob("*.partial"))
    assert len(partials) == (where == "writing")
    # There is nothing to go on from where the first checkpoint was being written: it starts over.
    assert (tmp_path / "checkpoint.pt").is_file() == (at > 2)
    assert_same(uninterrupted, run(tmp_path, network=network(seed=5 if at > 2 else 0)))


def test_a_damaged_checkpoint_is_refused(tmp_path):
    run(tmp_path, stop_at=2)
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ModelError, match="no checkpoint that can be read"):
        run(tmp_path)


def test_processes_that_do_not_see_the_checkpoint_of_the_first_are_refused(tmp_path, monkeypatch):
    run(tmp_path, stop_at=4)
    monkeypatch.setattr("chunkflow.models.train.told_by_first", lambda group, value, device: 4)
    assert run(tmp_path).step == 10
    with pytest.raises(ModelError, match="process 0 goes on from step 0, process 0 from step 4"):
        run(tmp_path / "elsewhere")


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run(tmp_path, stop_at=2)
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="another network"):
        run(tmp_path, network=UNet(UNetConfig(widths=(4, 6), norm="batch")))


def test_a_frozen_encoder_keeps_its_bits_and_the_rest_learns():
    fresh = network()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    after = run(network=fresh, frozen=ENCODER).weights
    frozen = {name for name in before if name.split(".")[0] in ENCODER}
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["head.weight"], after["head.weight"])
    assert any("running_mean" in name for name in frozen)


def test_it_stops_after_so_many_validations_in_vain_and_keeps_the_best():
    scores = iter([0.3, 0.9, 0.5, 0.6, 0.7])
    done = train_network(
        network(),
        Spots(),
        recipe(steps=30, validate_every=2, patience=3),
        activation="sigmoid",
        validate=lambda apply: {"score": next(scores)},
        score="score",
    )
    assert (done.ended, done.step, done.best) == ("patience", 10, {"step": 4, "score": 0.9})


def test_weights_are_those_of_the_best_validation():
    seen = []

    def judge(apply):
        seen.append(apply(Spots().sample(7)[0][None]))
        return {"error": [0.5, 0.2, 0.4][len(seen) - 1]}

    done = train_network(
        network(), Spots(), recipe(steps=9), activation="sigmoid", validate=judge, score="error", lower_is_better=True
    )
    best = network()
    best.load_state_dict(done.weights)
    with torch.inference_mode():
        found = torch.sigmoid(best.eval()(torch.from_numpy(Spots().sample(7)[0][None])))
    np.testing.assert_allclose(found.numpy(), seen[1], rtol=0, atol=1e-6)
    assert np.abs(seen[2] - seen[1]).max() > 1e-5


def test_the_running_mean_is_the_recursion_by_hand():
    weights = []
    fresh = network("none")
    original = fresh.state_dict()["head.weight"].clone()
    done = train_network(
        fresh,
        Spots(),
        recipe(steps=4, average=0.5, validate_every=99),
        activation="sigmoid",
        on_event=lambda event: weights.append(fresh.state_dict()["head.weight"].clone()),
    )
    mean = original
    for step, value in enumerate(weights):
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value
    torch.testing.assert_close(done.weights["head.weight"], mean)


def test_the_rate_rises_in_a_line_and_falls_as_half_a_cosine():
    numbers = Recipe(steps=110, warm_up=10, learning_rate=0.1, final_rate=0.2)
    assert numbers.rate(0) == pytest.approx(0.01)
    assert numbers.rate(9) == pytest.approx(0.1)
    assert numbers.rate(10) == pytest.approx(0.1)
    assert numbers.rate(60) == pytest.approx(0.06)
    assert numbers.rate(110) == pytest.approx(0.02)


def test_a_loss_that_is_not_finite_stops_the_training():
    class Broken(Spots):
        def sample(self, number):
            image, target, weight = super().sample(number)
            return image * np.float32(np.nan), target, weight

    with pytest.raises(ModelError, match="the loss of step 0 is nan"):
        run(patches=Broken())


def test_torch_is_left_as_it_was():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    run()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


class Partly(Spots):
    """Of every second sample only a corner is labelled."""

    def __init__(self):
        self.asked = []

    def sample(self, number):
        self.asked.append(number)
        image, target, weight = super().sample(number)
        if number % 2:
            weight = weight.copy()
            weight[:, 2:] = 0
        return image, target, weight


def _one_of_two(rank, port, folder):
    group = Group(rank=rank, count=2, address=f"tcp://127.0.0.1:{port}")
    patches = Partly()
    with joined(group, "cpu"):
        done = train_network(
            network("group"),
            patches,
            recipe(steps=3, batch=2),
            activation="sigmoid",
            group=group,
            checkpoint=Path(folder) / "checkpoint.pt",
        )
    assert set(patches.asked) == {rank, rank + 2, rank + 4}
    torch.save((done.weights, done.losses.tolist()), Path(folder) / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_with_a_sample_each_learn_what_one_with_both_learns(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_one_of_two, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    alone = train_network(network("group"), Partly(), recipe(steps=3, batch=2), activation="sigmoid")
    (first, losses), (second, _) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert losses == pytest.approx(alone.losses.tolist(), rel=1e-5)
    for name, value in alone.weights.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)


def test_a_loss_is_written_as_a_sum():
    assert Loss.of("2 bce + dice").terms == (("bce", 2.0), ("dice", 1.0))
    assert str(Loss.of("cross-entropy+dice")) == "cross-entropy + dice"


@pytest.mark.parametrize("room", [0, 3000])
def test_a_full_disk_is_said_and_leaves_the_old_checkpoint(tmp_path, monkeypatch, room):
    class Full(io.BytesIO):
        def write(self, content):
            if self.tell() + len(content) > room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, {"format": 1, "step": 1})
    monkeypatch.setattr(Path, "open", lambda self, mode: Full())
    with pytest.raises(DiskFullError, match=r"checkpoint\.pt"):
        write_checkpoint(path, {"format": 1, "step": 2, "weights": torch.zeros(4000)})
    monkeypatch.undo()
    assert read_checkpoint(path) == {"format": 1, "step": 1}
