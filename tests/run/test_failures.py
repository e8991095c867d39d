"""Whatever a block raises is a sentence in status and report, sets that block aside, and nothing else."""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Callable, Iterable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tblib import pickling_support  # type: ignore[import-untyped]

import chunkflow as cf
from chunkflow.errors import BlockError, DiskFullError, IncompleteError, ModelError
from chunkflow.geometry.box import triple
from chunkflow.geometry.grid import Grid
from chunkflow.run.failures import MOST_TRACE, EndingError, StepError, failure_of, said_by, trace_of
from chunkflow.run.journal import Journal
from chunkflow.run.status import status
from chunkflow.stages.functions import find_function
from chunkflow.testing.suites import write_volume

MODULE = """
import asyncio
import sys
import numpy as np

FIRST = 700

class Odd(Exception):
    def __init__(self, one, two):  # cannot be made again from its message
        super().__init__(f"{one} and {two}")
        self.frame = lambda: one

class Bare(BaseException):
    pass

def deep(n):
    return deep(n + 1) + 1

def cancel():
    raise asyncio.CancelledError

KINDS = {
    "SystemExit": lambda: sys.exit(3),
    "KeyboardInterrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt("now")),
    "GeneratorExit": lambda: (_ for _ in ()).throw(GeneratorExit),
    "CancelledError": cancel,
    "Bare": lambda: (_ for _ in ()).throw(Bare("of mine")),
    "StopIteration": lambda: next(iter(())),
    "RecursionError": lambda: deep(0),
    "MemoryError": lambda: (_ for _ in ()).throw(MemoryError),
    "Odd": lambda: (_ for _ in ()).throw(Odd(1, 2)),
    "KeyError": lambda: {}["missing"],
    "AssertionError": lambda: (_ for _ in ()).throw(AssertionError),
}

def marked(image):
    for number, kind in enumerate(KINDS):
        if (image == FIRST + number).any():
            KINDS[kind]()
    return image.astype(np.float32)
"""
FIRST = 700
"""The mark of the first kind; the others follow."""
SAID = {
    "SystemExit": "SystemExit: 3",
    "KeyboardInterrupt": "the block meant to end its process or the run (KeyboardInterrupt: now, in <genexpr>, raisers",
    "GeneratorExit": "(GeneratorExit, without a message, in <genexpr>, raisers",
    "CancelledError": "(CancelledError, without a message, in cancel, raisers",
    "Bare": "(Bare: of mine, in <genexpr>, raisers",
    "StopIteration": "raisers:marked failed on",
    "RecursionError": "RecursionError: maximum recursion depth exceeded",
    "MemoryError": "does not fit the memory, alone in its process (MemoryError, without a message)",
    "Odd": "Odd: 1 and 2",
    "KeyError": "KeyError: 'missing', in line",
    "AssertionError": "AssertionError, in line",
}


def write_marked(path: Path, kinds: Iterable[str]) -> None:
    """A volume of twelve tiles, those of kinds with a voxel of their mark each, in the order of `SAID`."""
    image = np.full((12, 12, 18), 100, np.uint16)
    tiles = Grid(triple(image.shape), (6, 6, 6))
    for number, kind in enumerate(SAID):
        if kind in kinds:
            image[tiles.core_of(number).start] = FIRST + number
    write_volume(path, image, (0.2, 0.1, 0.1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with a tile of every kind and a last one without, beside the module that minds the marks."""
    path = tmp_path_factory.mktemp("raising")
    (path / "raisers.py").write_text(MODULE)
    write_marked(path / "in.ome.zarr", SAID)
    return path


@pytest.fixture
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))


def planned(source: Path, output: Path) -> cf.Plan:
    apply = cf.Apply(function="raisers:marked", output="image", tile=6, halo=0)
    options = cf.OutputOptions(save=("image",))
    return cf.Pipeline([apply], output=options).plan(source, output, block=(6, 6, 6))


def check(output: Path) -> None:
    """Every kind has its sentence in status and report, and the tile without a mark is done."""
    (found,) = [p for p in status(output).passes if p.quarantined]
    assert (found.units, found.done, found.failed) == (len(SAID) + 1, 1, ())
    assert [unit.unit for unit in found.quarantined] == [*range(len(SAID))]
    report = unescape((output / "report.html").read_text())
    for unit, (kind, words) in zip(found.quarantined, SAID.items(), strict=True):
        assert words in unit.error, kind
        assert unit.error.count(". ") == 1 and not unit.error.endswith("."), kind  # what, and remedy
        assert unit.peak is not None and unit.error in report, kind


@pytest.mark.usefixtures("importable")
def test_whatever_a_block_raises_is_said_in_a_sentence_and_the_others_are_computed(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(IncompleteError, match="11 of 12 blocks"):
        planned(folder / "in.ome.zarr", tmp_path / "out").run(on="threads", workers=2)
    check(tmp_path / "out")


@pytest.mark.usefixtures("importable")
def test_no_worker_goes_with_what_a_block_raises(folder: Path, tmp_path: Path, cluster: Any) -> None:
    before = _processes(cluster, folder)
    with pytest.raises(IncompleteError, match="11 of 12 blocks"):
        planned(folder / "in.ome.zarr", tmp_path / "out").run(client=cluster.client)
    check(tmp_path / "out")
    assert _processes(cluster, folder) == before
    journal = Journal.read(tmp_path / "out" / "run" / "journal.jsonl")
    assert journal.ended is not None and journal.ended["code"] == 3
    (aside,) = [p.quarantined for p in journal.passes.values() if p.quarantined]
    traces = [facts["traceback"] for facts in aside.values() if facts["kind"] != "BlockMemoryError"]
    assert len(traces) == len(SAID) - 1
    assert all("in marked" in trace for trace in traces)  # it came with the error


def _processes(cluster: Any, folder: Path) -> set[int]:
    """Of the workers, which can import the module from now on."""

    def found(where: str) -> int:
        import os

        if where not in sys.path:
            sys.path.insert(0, where)
        return os.getpid()

    return set(cluster.client.run(found, str(folder)).values())


@pytest.mark.usefixtures("importable")
def test_an_interrupt_in_the_main_thread_ends_the_run_and_is_recorded(tmp_path: Path) -> None:
    write_marked(tmp_path / "in.ome.zarr", ["KeyboardInterrupt"])
    with pytest.raises(KeyboardInterrupt):
        planned(tmp_path / "in.ome.zarr", tmp_path / "out").run(on="serial")
    found = status(tmp_path / "out")
    assert (found.state, found.code) == ("interrupted", 130)


def raised(make: Callable[[], Any]) -> BaseException:
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def _fails(error: BaseException) -> Callable[[], None]:
    def inner() -> None:
        raise error

    return inner


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def test_a_failure_travels_without_what_cannot() -> None:
    class Local(Exception):  # no pickle knows it
        pass

    def chained() -> None:
        try:
            raise Local("deep")
        except Local as error:
            raise BlockError("the block is broken", "Mend it") from error

    pickling_support.install()
    for error in (raised(chained), raised(_fails(Local("x"))), raised(_fails(asyncio.CancelledError()))):
        found = failure_of(error)
        again = pickle.loads(pickle.dumps(found))
        assert (type(again), str(again)) == (type(found), str(found))
        assert (again.__cause__, again.__context__) == (None, None)
        assert "test_failures.py" in trace_of(again)
        assert "Local" in trace_of(again) or isinstance(again, EndingError)


def test_only_what_may_pass_is_tried_again() -> None:
    assert not isinstance(failure_of(raised(_fails(OSError(5, "I/O error")))), BlockError)
    assert isinstance(failure_of(raised(_fails(SystemExit(2)))), BlockError)
    assert isinstance(failure_of(raised(_fails(OSError(28, "No space left")))), DiskFullError)


def test_errors_without_words_or_with_too_many_have_a_sentence() -> None:
    assert said_by(Mute()) == "Mute, whose message cannot be made"
    assert said_by(MemoryError()) == "MemoryError, without a message"
    assert len(said_by(ValueError("x" * 10**6))) < 600
    assert said_by(ValueError("two\n  lines")) == "ValueError: two lines"
    found = failure_of(raised(_fails(Mute())))
    assert "in inner, test_failures.py line" in str(found)
    assert "Correct it there" in str(found)


def test_the_trace_of_functions_that_call_each_other_is_cut() -> None:
    def one(n: int) -> int:
        return other(n + 1)

    def other(n: int) -> int:
        return one(n + 1)

    found = failure_of(raised(lambda: one(0)))
    assert isinstance(found, StepError) and found.kind == "RecursionError"
    assert "use a loop" in found.remedy
    assert len(trace_of(found)) < MOST_TRACE + 100


def test_a_library_is_not_named_where_the_users_line_is_known() -> None:
    found = failure_of(raised(lambda: np.zeros(3).reshape(2, 2)))
    assert "test_failures.py line" in found.what and "cannot reshape" in found.what


def test_a_module_that_exits_when_it_is_imported_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_script.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=r"a_script cannot be imported for a_script:run \(SystemExit: 0\)"):
        find_function("a_script:run", "apply")
