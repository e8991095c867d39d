"""Progress or a diagnosis, never a hang: units that hang, workers that are stopped, schedulers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from chunkflow.backend import find_device
from chunkflow.errors import BlockError, ClusterError, ConfigError
from chunkflow.run.dask import DaskEngine, connected_engine, local_engine
from chunkflow.run.engine import ClusterOptions, chosen_engine
from chunkflow.run.watchdog import FIRST_SECONDS, LEAST_SECONDS, WORKERS, Patience, Since, Watchdog
from chunkflow.run.worker import LANES


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def finished(dog: Watchdog, clock: Clock, seconds: list[float]) -> None:
    for unit, taken in enumerate(seconds):
        dog.sent(unit)
        clock.now += taken
        dog.ended(unit)


@pytest.mark.parametrize(
    ("taken", "limit"),
    [([], FIRST_SECONDS), ([1.0, 2.0, 400.0], LEAST_SECONDS), ([100.0, 200.0, 1e5], 20 * 200.0)],
)
def test_the_limit_is_twenty_medians_and_half_an_hour_at_least(taken: list[float], limit: float) -> None:
    clock = Clock()
    dog = Watchdog(Patience(), clock)
    finished(dog, clock, taken)
    assert dog.limit == pytest.approx(limit)


def test_a_limit_that_is_given_is_the_limit() -> None:
    clock = Clock()
    dog = Watchdog(Patience(block_seconds=7.0), clock)
    finished(dog, clock, [100.0] * 3)
    assert dog.limit == 7.0


def test_waiting_behind_another_unit_does_not_count() -> None:
    clock = Clock()
    dog = Watchdog(Patience(block_seconds=10.0), clock)
    for unit in (1, 2):
        dog.sent(unit)
    assert dog.overdue({"a": [1]}) == {}
    clock.now = 9.0
    assert dog.overdue({"a": [1]}) == {}
    clock.now = 9.5
    assert dog.overdue({"a": [1, 2]}) == {}
    clock.now = 11.0
    assert dog.overdue({"a": [1, 2]}) == {"a": [1]}


def test_a_unit_that_moved_to_another_worker_begins_anew() -> None:
    clock = Clock()
    dog = Watchdog(Patience(block_seconds=10.0), clock)
    dog.overdue({"a": [1]})
    clock.now = 9.0
    dog.overdue({"b": [1]})
    clock.now = 15.0
    assert dog.overdue({"b": [1]}) == {}
    clock.now = 20.0
    assert dog.overdue({"b": [1]}) == {"b": [1]}


def test_a_unit_that_outlasts_worker_after_worker_is_given_up() -> None:
    clock = Clock()
    dog = Watchdog(Patience(block_seconds=1e6), clock)
    seen = []
    for worker in range(WORKERS):
        clock.now += 100.0
        seen.append(dog.overdue({str(worker): [1, 10 + worker]}))
    assert seen == [{}] * (WORKERS - 1) + [{str(WORKERS - 1): [1]}]
    assert "walltime" in dog.why(1)


def test_a_worker_is_silent_when_its_last_sign_of_life_stays_the_same() -> None:
    clock = Clock()
    dog = Watchdog(Patience(silent_seconds=5.0), clock)
    for now in (0.0, 3.0, 6.0):
        clock.now = now
        silent = dog.silent({"stopped": -1e9, "alive": now})
    assert silent == ["stopped"]


def test_a_break_starts_the_time_anew() -> None:
    clock = Clock()
    since = Since(clock)
    assert since.seconds(True) == 0
    clock.now = 4.0
    assert since.seconds(True) == 4.0
    assert since.seconds(False) == 0
    clock.now = 6.0
    assert since.seconds(True) == 0


def test_waits_of_no_time_are_refused() -> None:
    with pytest.raises(ConfigError, match="block_seconds is 0"):
        Patience(block_seconds=0.0)


# -- with processes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient() -> Iterator[Callable[..., DaskEngine]]:
    """(settings) -> an engine on two workers, the same for equal settings."""
    engines: dict[tuple[Any, ...], DaskEngine] = {}

    def make(**settings: float) -> DaskEngine:
        key = tuple(settings.items())
        if key not in engines:
            engines[key] = local_engine(2, 2**31, patience=Patience(**settings))
        return engines[key]

    yield make
    for engine in engines.values():
        engine.close()


def _hang_at_three(unit: int) -> int:
    if unit == 3:
        time.sleep(3600)
    return unit * unit


def _hang_once(folder: str, unit: int) -> int:
    first = Path(folder, f"{unit}")
    if unit == 3 and not first.exists():
        first.touch()
        time.sleep(3600)
    return unit * unit


def _stop_once(folder: str, unit: int) -> int:
    first = Path(folder, f"{unit}")
    if unit == 3 and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return unit * unit


def _compute_for_two_seconds(unit: int) -> tuple[int, int]:
    with LANES.lane():
        time.sleep(2.0)
    return unit, os.getpid()


def _slow(unit: int) -> int:
    time.sleep(0.2)
    return unit


@pytest.mark.thorough
def test_a_unit_that_hangs_twice_is_set_aside_with_the_place_where_it_hangs(impatient: Any) -> None:
    outcomes = dict(impatient(block_seconds=2.0).map(_hang_at_three, range(12)))
    error = outcomes.pop(3)
    assert outcomes == {unit: unit * unit for unit in range(12) if unit != 3}
    assert isinstance(error, BlockError)
    assert "took longer than 2 s" in str(error)
    assert "_hang_at_three" in str(error)
    assert "--block-seconds" in str(error)


@pytest.mark.thorough
def test_a_unit_that_hangs_once_is_done_by_the_second_attempt(impatient: Any, tmp_path: Path) -> None:
    outcomes = dict(impatient(block_seconds=2.0).map(partial(_hang_once, str(tmp_path)), range(12)))
    assert outcomes == {unit: unit * unit for unit in range(12)}
    assert (tmp_path / "3").exists()


@pytest.mark.thorough
def test_waiting_for_the_lane_of_a_worker_is_not_time_that_a_unit_took(impatient: Any) -> None:
    outcomes = dict(impatient(block_seconds=3.0).map(_compute_for_two_seconds, range(8)))
    assert {unit for unit, _ in outcomes.values()} == set(range(8))
    assert len({worker for _, worker in outcomes.values()}) == 2, "a worker was started again"


@pytest.mark.thorough
def test_a_worker_that_is_stopped_is_noticed_and_its_units_are_done(impatient: Any, tmp_path: Path) -> None:
    outcomes = dict(impatient(silent_seconds=3.0).map(partial(_stop_once, str(tmp_path)), range(12)))
    assert outcomes == {unit: unit * unit for unit in range(12)}
    assert (tmp_path / "3").exists()


@pytest.fixture
def own_client(tmp_path: Path) -> Iterator[Callable[[str], Client]]:
    """(workers) -> a user's own client, of a cluster that knows nothing of ours."""
    with ExitStack() as ended:

        def connect(workers: str) -> Client:
            if workers == "of a local cluster":
                settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
                made = ended.enter_context(LocalCluster(host="127.0.0.1", silence_logs=50, **settings))
                return ended.enter_context(Client(made, set_as_default=False))
            file = str(tmp_path / "scheduler.json")
            local = ["--scheduler-file", file, "--host", "127.0.0.1", "--no-dashboard"]
            alone = [*local, "--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path)]
            started = [_started("scheduler", *local, "--port", "0", "--no-jupyter", "--no-show")]
            started += [_started("worker", *alone) for _ in range(2 if workers == "without nannies" else 1)]
            for process in started:
                ended.callback(process.wait)
                ended.callback(process.kill)
            client = ended.enter_context(Client(scheduler_file=file, timeout="60s", set_as_default=False))
            client.wait_for_workers(len(started) - 1, timeout=60)
            return client

        yield connect


IMPATIENT = ClusterOptions(patience=Patience(silent_seconds=3.0, answer_seconds=5.0, lonely_seconds=5.0))


def _engine_of(client: Client) -> Any:
    given: dict[str, Any] = {"on": None, "workers": None, "units": 12, "memory": 2**30, "device": find_device("cpu")}
    return chosen_engine(client=client, options=IMPATIENT, **given)


@pytest.mark.thorough
@pytest.mark.parametrize("workers", ["of a local cluster", "without nannies"])
def test_a_stopped_worker_of_a_client_of_the_user_s_is_noticed_and_its_units_are_done(
    own_client: Any, workers: str, tmp_path: Path
) -> None:
    outcomes = dict(_engine_of(own_client(workers)).map(partial(_stop_once, str(tmp_path)), range(12)))
    assert outcomes == {unit: unit * unit for unit in range(12)}
    assert (tmp_path / "3").exists()


@pytest.mark.thorough
def test_where_the_only_worker_of_the_user_s_is_stopped_the_run_ends(own_client: Any, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no worker for 5 s"):
        list(_engine_of(own_client("just one")).map(partial(_stop_once, str(tmp_path)), range(12)))
    assert (tmp_path / "3").exists()


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[subprocess.Popen[bytes]], str]]:
    """A scheduler and a worker in processes of their own."""
    file = str(tmp_path / "scheduler.json")
    local = ["--scheduler-file", file, "--host", "127.0.0.1", "--no-dashboard"]
    head = _started("scheduler", *local, "--port", "0", "--no-jupyter", "--no-show")
    worker = _started("worker", *local, "--nthreads", "1", "--local-directory", str(tmp_path), "--death-timeout", "20")
    with Client(scheduler_file=file, timeout="60s", set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
        address = client.scheduler.address
    yield head, [worker], address
    for process in (worker, head):
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _started(*command: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "dask", *command]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_scheduler_that_dies_or_stops_ends_the_run(scheduler: Any, number: int) -> None:
    head, _, address = scheduler
    engine = connected_engine(address, patience=Patience(answer_seconds=12.0))
    outcomes = engine.map(_slow, range(1000))
    next(outcomes)
    head.send_signal(number)
    began = time.monotonic()
    with pytest.raises(ClusterError, match="scheduler at tcp://127.0.0.1"):
        list(outcomes)
    assert time.monotonic() - began < 90
    engine.close()


@pytest.mark.thorough
def test_a_cluster_whose_workers_are_all_gone_ends_the_run(scheduler: Any) -> None:
    _, workers, address = scheduler
    engine = connected_engine(address, patience=Patience(lonely_seconds=3.0))
    outcomes = engine.map(_slow, range(1000))
    next(outcomes)
    workers[0].terminate()
    with pytest.raises(ClusterError, match="no worker for 3 s"):
        list(outcomes)
    engine.close()
