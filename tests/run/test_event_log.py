"""What a run says is kept in object stores too: in few requests, whatever becomes of the run or of the store."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chunkflow as cf
from chunkflow.errors import IncompleteError, StoreError
from chunkflow.run import event_log
from chunkflow.run.doctor import bundle
from chunkflow.run.event_log import KEPT, OBJECT_BYTES, PAUSE_SECONDS, SECONDS, ObjectLog, log_lines
from chunkflow.run.events import Stream, events_of
from chunkflow.stages.label import Components
from chunkflow.storage.stores import ObjectPath

RUN = ObjectPath("s3://bucket", "out/run")
LOG = RUN / event_log.FILE


class Store(dict[str, bytes]):
    """In place of one: puts : their sizes; is_away : it does not answer"""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[int] = []
        self.is_away = False

    def write(self, path: ObjectPath, content: bytes) -> None:
        if self.is_away:
            raise StoreError("nobody answers")
        self.puts.append(len(content))
        self[path.name] = content

    def names(self, path: ObjectPath) -> Iterator[ObjectPath]:
        yield from (path / name for name in self)

    def drop(self, paths: list[ObjectPath]) -> None:
        for path in paths:
            del self[path.name]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr(ObjectPath, "write_bytes", lambda path, content: made.write(path, content))
    monkeypatch.setattr(ObjectPath, "iterdir", lambda path: made.names(path))
    monkeypatch.setattr(ObjectPath, "read_bytes", lambda path: made[path.name])
    monkeypatch.setattr(event_log, "delete", made.drop)
    return made


def lines() -> list[str]:
    return [line.decode() for line in log_lines(RUN)]


def test_runs_follow_each_other_and_each_has_its_lines_in_order(store: Store) -> None:
    for run in range(3):
        log = ObjectLog(LOG)
        for line in range(4):
            log.add(f"{run}-{line}")
        log.flush()
        log.flush()
    assert lines() == [f"{run}-{line}" for run in range(3) for line in range(4)]
    assert len(store) == 3


def test_a_kill_loses_the_lines_of_the_last_seconds_only_and_requests_are_few(store: Store) -> None:
    clock = Clock()
    log = ObjectLog(LOG, clock)
    for second in range(1000):
        clock.now = second
        log.add(f"at {second}")
        there = int(lines()[-1].split()[1])
        assert second - there < SECONDS
    assert len(store.puts) <= 1000 / SECONDS + 1
    for _ in range(1000):
        log.tick()
    assert len(store.puts) <= 1000 / SECONDS + 2


def test_a_line_that_waits_is_put_while_units_come_back(store: Store) -> None:
    clock = Clock()
    log = ObjectLog(LOG, clock)
    log.add("first")
    log.add("second")
    assert lines() == ["first"]
    clock.now = SECONDS
    log.tick()
    assert lines() == ["first", "second"]


def test_no_put_is_large_however_much_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    log = ObjectLog(LOG, clock)
    monkeypatch.setattr(event_log, "MOST_BYTES", 6 * OBJECT_BYTES)
    for number in range(2000):
        clock.now += SECONDS
        log.add(f"{number:06d}" + "x" * 994)
    log.flush()
    assert max(store.puts) <= OBJECT_BYTES + 1001
    kept = lines()
    assert [int(line[:6]) for line in kept] == list(range(len(kept)))  # none twice, none between is lost
    assert 6 * OBJECT_BYTES <= sum(map(len, kept)) + len(kept) <= 6 * OBJECT_BYTES + 1001


def test_a_store_that_does_not_answer_ends_nothing_and_has_everything_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    store.is_away = True
    log = ObjectLog(LOG, clock)
    tried: list[float] = []
    write = store.write

    def noted(path: ObjectPath, content: bytes) -> None:
        tried.append(clock.now)
        write(path, content)

    monkeypatch.setattr(ObjectPath, "write_bytes", noted)
    for second in range(200):
        clock.now = second
        log.add(f"at {second}")
        store.is_away = second < 150
    assert tried[:3] == [0, PAUSE_SECONDS, 2 * PAUSE_SECONDS]  # a run does not wait at each line
    log.flush()
    assert lines() == [f"at {second}" for second in range(200)]


def test_what_runs_long_ago_said_is_deleted(store: Store) -> None:
    for run in range(KEPT + 9):
        log = ObjectLog(LOG)
        log.add(f"run {run}")
        log.flush()
    assert lines() == [f"run {run}" for run in range(8, KEPT + 9)]


def test_two_drivers_of_one_number_lose_no_line_of_each_other(store: Store) -> None:
    one, other = ObjectLog(LOG), ObjectLog(LOG)
    one.add("mine")
    other.add("of another")
    assert sorted(lines()) == ["mine", "of another"]


def test_events_said_before_there_was_a_folder_are_kept_in_a_store_too(store: Store) -> None:
    stream = Stream()
    stream({"event": "device", "text": "early"})
    stream.keep_in(RUN)
    stream({"event": "warning", "text": "late"})
    assert [event["text"] for event in events_of(RUN)] == ["early"]
    assert isinstance(stream._log, ObjectLog)
    stream._log._next = 0.0  # it is time
    stream({"event": "unit", "pass": "label"})
    assert [event["text"] for event in events_of(RUN)] == ["early", "late"]
    stream({"event": "warning", "text": "last"})
    stream.flush()
    assert [event["text"] for event in events_of(RUN)] == ["early", "late", "last"]


@pytest.mark.thorough
def test_a_run_in_a_store_keeps_what_it_said_for_report_and_bundle(
    bucket: ObjectPath, tiny_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(bucket / "out")
    plan = cf.Pipeline([cf.Threshold(), cf.Label()]).plan(tiny_volume, out, block=(24, 24, 24))
    heard: list[Any] = []
    run = Components.run

    def broken(self: Any, view: Any, box: Any) -> Any:
        if view.block == 1:
            raise ZeroDivisionError("on purpose")
        return run(self, view, box)

    monkeypatch.setattr(Components, "run", broken)
    with pytest.raises(IncompleteError):
        plan.run(on="serial", on_event=heard.append)
    said = [{k: v for k, v in event.items() if k != "time"} for event in events_of(bucket / "out/run")]
    assert [event["event"] for event in said] == [event["event"] for event in heard if event["event"] != "unit"]
    assert [event["error"] for event in said if event["event"] == "failed"] and said[-1]["event"] == "report"
    monkeypatch.setattr(Components, "run", run)
    plan.run(on="serial", allow_holes=True)
    assert [event["event"] for event in events_of(bucket / "out/run")].count("device") == 2
    with zipfile.ZipFile(bundle(out, tmp_path / "bundle.zip")) as archive:
        assert "ZeroDivisionError" in archive.read("run/log.jsonl").decode()
        assert '"event":"quarantined"' in archive.read("run/journal.jsonl").decode()
    assert cf.Pipeline([cf.Threshold(), cf.Label()]).plan(tiny_volume, out, block=(24, 24, 24)).run(restart=True)
    assert [event["event"] for event in events_of(bucket / "out/run")].count("device") == 1
