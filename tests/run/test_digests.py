"""Bytes are compared where somebody may have touched them, and only there."""

from pathlib import Path
from typing import Any

import pytest

from chunkflow.run import digests
from chunkflow.run.digests import Trust, digest_of, holds_its_bytes, sealed
from chunkflow.testing.chaos.faults import after_a_tick, delete, flip, swap


@pytest.fixture
def files(tmp_path: Path) -> list[list[Path]]:
    """Two arrays of two files, and a record."""
    names = [["a/0", "a/1"], ["b/0", "b/1"], ["0.rec"]]
    for name in (name for group in names for name in group):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 100)
    return [[tmp_path / name for name in group] for group in names]


def line_of(files: list[list[Path]], session: int = 1) -> dict[str, Any]:
    seal = sealed(files)
    return {"digests": list(seal.digests), "stamp": seal.stamp, "at": 0.0, "session": session}


def test_the_digest_is_of_all_files_in_their_order(files: list[list[Path]]) -> None:
    one, two = files[0]
    assert digest_of([one, two]) != digest_of([two, one]) != digest_of([one])
    assert digest_of([]) == digest_of([one.with_name("none")]) == 0


@pytest.mark.parametrize("fault", [flip, swap, delete])
@pytest.mark.parametrize("group", [0, 1, 2])
def test_a_touched_file_that_is_another_is_noticed(fault: Any, group: int, files: list[list[Path]]) -> None:
    line = line_of(files)
    assert holds_its_bytes(line, files, Trust())
    after_a_tick(fault, files[group][0], files[1 - min(group, 1)][1])
    assert holds_its_bytes(line, files, Trust(doubt=1)) is False
    assert holds_its_bytes(line, files, Trust()) is (fault is delete)  # sizes tell, of what is gone


def test_a_copy_is_read_once_and_found_to_be_the_same(files: list[list[Path]]) -> None:
    line = line_of(files)
    for path in (path for group in files for path in group):
        path.write_bytes(path.read_bytes())
    assert holds_its_bytes(line, files, Trust())


def test_what_an_audit_has_seen_since_is_not_read_again(
    files: list[list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = line_of(files)
    after_a_tick(flip, *files[0])
    now = max(path.stat().st_ctime_ns for path in files[0])

    def read(paths: Any) -> int:
        raise AssertionError("it was read")

    monkeypatch.setattr(digests, "digest_of", read)
    assert holds_its_bytes(line, files, Trust(stamp=now))


def test_sessions_before_the_doubtful_one_are_not_read(files: list[list[Path]]) -> None:
    line = {**line_of(files, session=2), "digests": [1, 2, 3]}
    assert holds_its_bytes(line, files, Trust(doubt=3))
    assert not holds_its_bytes(line, files, Trust(doubt=2))


def test_arrays_that_were_deleted_and_lines_without_digests_are_let_be(files: list[list[Path]]) -> None:
    line = line_of(files)
    assert holds_its_bytes(line, [None, None, files[2]], Trust(doubt=0))
    assert holds_its_bytes({"unit": 3}, files, Trust(doubt=0))
