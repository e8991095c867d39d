"""The journal survives being cut or damaged anywhere: what is read is always a prefix of what was written."""

import errno
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

from chunkflow.errors import DiskFullError, IntegrityError
from chunkflow.run.journal import LAST_WORDS_BYTES, Journal, PassState
from chunkflow.run.segments import journal_line

EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("start", {"time": 1.5, "epoch": 1, "kind": "cpu"}),
    ("unit", {"pass": "aa", "unit": 0, "objects": [10, 0], "record": 7}),
    ("unit", {"pass": "aa", "unit": 1, "objects": [12, 3], "record": 9}),
    ("failed", {"pass": "aa", "unit": 2, "error": "NaN at (1, 2, 3), \u00b5m\nsecond line"}),
    ("unit", {"pass": "aa", "unit": 2, "objects": [1, 1], "record": 5}),
    ("finished", {"pass": "aa", "name": "scan"}),
    ("unit", {"pass": "bb", "unit": 0, "objects": [], "record": 5}),
    ("lost", {"pass": "aa", "unit": 1}),
    ("publishing", {"arrays": {"image.ome.zarr/0": "aa"}}),
    ("published", {"arrays": {"image.ome.zarr/0": "aa"}, "passes": {"scan": "aa"}}),
    ("dropped", {"pass": "aa", "arrays": ["valid"]}),
    ("reset", {"pass": "bb"}),
    ("end", {"time": 2.5, "code": 0}),
]


def _facts(journal: Journal) -> dict[str, Any]:
    """All that a journal knows."""
    passes = {name: state for name, state in journal.passes.items() if state != PassState()}
    return {
        "passes": passes,
        "starts": journal.starts,
        "published": journal.published,
        "publishing": journal.publishing,
        "published_passes": journal.published_passes,
        "ended": journal.ended,
    }


def _written(path: Path, count: int) -> Journal:
    journal = Journal.open(path)
    for event, facts in EVENTS[:count]:
        journal.append(event, **facts)
    journal.close()
    return journal


@pytest.fixture
def prefixes(tmp_path: Path) -> list[dict[str, Any]]:
    """What is known after 0, 1, ... all events."""
    return [_facts(_written(tmp_path / f"prefix{n}.jsonl", n)) for n in range(len(EVENTS) + 1)]


def test_a_journal_reads_back_what_was_written(tmp_path: Path) -> None:
    written = _written(tmp_path / "journal.jsonl", len(EVENTS))
    assert _facts(Journal.read(tmp_path / "journal.jsonl")) == _facts(written)
    assert sorted(written.passes["aa"].done) == [0, 2]
    assert written.passes["aa"].failed == {}
    assert written.passes["aa"].dropped == {"valid"}
    assert not written.passes["aa"].finished
    assert written.passes["bb"] == PassState()
    assert written.published == {"image.ome.zarr/0": "aa"}
    assert written.publishing is None
    assert written.ended is not None


def test_cut_at_every_byte_it_opens_to_the_lines_that_are_whole(tmp_path: Path, prefixes: list[Any]) -> None:
    whole = tmp_path / "whole.jsonl"
    _written(whole, len(EVENTS))
    content = whole.read_bytes()
    cut = tmp_path / "cut.jsonl"
    for length in range(len(content) + 1):
        cut.write_bytes(content[:length])
        complete = content[:length].count(b"\n")
        assert _facts(Journal.read(cut)) == prefixes[complete]


def test_after_any_cut_the_rest_can_be_written_again(tmp_path: Path, prefixes: list[Any]) -> None:
    whole = tmp_path / "whole.jsonl"
    _written(whole, len(EVENTS))
    content = whole.read_bytes()
    cut = tmp_path / "cut.jsonl"
    for length in range(0, len(content), 7):
        cut.write_bytes(content[:length])
        journal = Journal.open(cut)
        for event, facts in EVENTS[content[:length].count(b"\n") :]:
            journal.append(event, **facts)
        journal.close()
        assert cut.read_bytes() == content
    assert _facts(Journal.read(cut)) == prefixes[-1]


def test_any_flipped_bit_ends_the_journal_at_its_line(tmp_path: Path, prefixes: list[Any]) -> None:
    whole = tmp_path / "whole.jsonl"
    _written(whole, 7)
    content = whole.read_bytes()
    damaged = tmp_path / "damaged.jsonl"
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        damaged.write_bytes(bytes(flipped))
        line = content[:position].count(b"\n")
        assert _facts(Journal.read(damaged)) == prefixes[line], position


def test_opening_cuts_the_torn_tail_off_the_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    _written(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole + b'1234abcd {"event": "uni')
    Journal.open(path).close()
    assert path.read_bytes() == whole


def test_reading_changes_nothing_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"torn")
    Journal.read(path)
    assert path.read_bytes() == b"torn"
    Journal.read(tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_every_line_is_a_crc_and_json(tmp_path: Path) -> None:
    _written(tmp_path / "journal.jsonl", len(EVENTS))
    for line, (event, facts) in zip((tmp_path / "journal.jsonl").read_bytes().splitlines(), EVENTS, strict=True):
        crc, text = line.split(b" ", 1)
        assert int(crc, 16) == zlib.crc32(text)
        assert json.loads(text) == {"event": event, **facts}


def test_lines_are_in_the_file_before_append_returns(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    for count, (event, facts) in enumerate(EVENTS, start=1):
        journal.append(event, **facts)
        assert (tmp_path / "journal.jsonl").read_bytes().count(b"\n") == count
    journal.close()


def test_a_unit_set_aside_and_done_later_is_no_longer_set_aside(tmp_path: Path) -> None:
    journal = _written(tmp_path / "journal.jsonl", 4)
    assert set(journal.state("aa").failed) == {2}
    assert set(_written(tmp_path / "later.jsonl", 5).state("aa").failed) == set()


def test_a_run_that_was_killed_is_in_doubt_until_one_after_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    seen = []
    for code in (0, None, None, 130, 1, 0, 1):  # None: killed
        journal = Journal.open(path)
        journal.append("start", time=0.0, epoch=1)
        if code is not None:
            journal.append("end", time=1.0, code=code)
        journal.close()
        seen.append(Journal.read(path).unclean_session)
    assert seen == [None, 2, 2, 2, 2, None, None]


def test_a_line_with_a_checksum_that_is_no_json_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(journal_line("no JSON"))
    with pytest.raises(IntegrityError, match="means nothing here.*no JSON"):
        Journal.read(tmp_path / "journal.jsonl")


def test_a_lost_unit_makes_its_pass_unfinished(tmp_path: Path) -> None:
    assert _written(tmp_path / "a.jsonl", 7).state("aa").finished
    assert not _written(tmp_path / "b.jsonl", 8).state("aa").finished


# Publishing, more than once.


def _publishing(path: Path, *events: tuple[str, dict[str, str]]) -> Journal:
    journal = Journal.open(path)
    for event, arrays in events:
        journal.append(event, arrays=arrays, passes={}) if event == "published" else journal.append(
            event, arrays=arrays
        )
    journal.close()
    return Journal.read(path)


def test_what_a_publishing_may_have_replaced_is_not_what_was_there_whatever_is_published_next(tmp_path: Path) -> None:
    a, b, c = {"image/0": "a", "mask/0": "a"}, {"image/0": "b", "mask/0": "b"}, {"image/0": "c"}
    path = tmp_path / "journal.jsonl"
    found = _publishing(path, ("published", a), ("publishing", b), ("publishing", c))
    assert found.locations == {"image/0": "c"}  # the mask is a's or b's: nobody knows
    assert _publishing(path, ("published", a)).locations == a


def test_what_two_settings_share_stays_through_publishing(tmp_path: Path) -> None:
    a, b = {"image/0": "a", "mask/0": "a"}, {"image/0": "a", "mask/0": "b"}
    found = _publishing(tmp_path / "journal.jsonl", ("published", a), ("publishing", b), ("publishing", {}))
    assert found.locations == {"image/0": "a"}


# Lines that this program did not write.


@pytest.mark.parametrize(
    "line",
    [
        {"event": "published", "arrays": {"a": "b"}},
        {"event": "published", "arrays": 3, "passes": {}},
        {"event": "publishing", "arrays": {"a": 1}},
        {"event": "unit", "pass": "aa", "unit": 0},
        {"event": "unit", "pass": "aa", "unit": "0", "objects": [], "record": 1},
        {"event": "unit", "pass": "aa", "unit": True, "objects": [], "record": 1},
        {"event": "unit", "pass": "aa", "unit": 0, "objects": ["1"], "record": 1},
        {"event": "unit", "pass": "aa", "unit": 0, "objects": [1], "record": 1, "stamp": 1.5},
        {"event": "unit", "pass": ["aa"], "unit": 0, "objects": [1], "record": 1},
        {"event": "dropped", "pass": "aa"},
        {"event": "end"},
        {"event": "reset"},
        {},
        [],
        "unit",
    ],
)
def test_a_line_of_another_program_is_refused_by_name(line: Any, tmp_path: Path) -> None:
    text = json.dumps(line).encode()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"%08x %s\n" % (zlib.crc32(text), text))
    for read in (Journal.read, Journal.open):
        with pytest.raises(IntegrityError, match="journal.jsonl has a line.*--restart"):
            read(path)


def test_a_line_nested_too_deep_is_refused_by_name(tmp_path: Path) -> None:
    text = b"[" * 10**5 + b"]" * 10**5
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"%08x %s\n" % (zlib.crc32(text), text))
    with pytest.raises(IntegrityError, match=r"journal.jsonl has a line.*--restart"):
        Journal.read(path)


# A full disk.


def test_the_last_words_are_written_with_the_space_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = _written(path, 3)
    whole = path.read_bytes()
    assert (tmp_path / "reserve").stat().st_size == LAST_WORDS_BYTES
    write = os.write

    def full(file: int, content: bytes) -> int:
        if (tmp_path / "reserve").exists():  # half of it still found a place
            write(file, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content)

    monkeypatch.setattr(os, "write", full)
    journal = Journal.open(path)
    with pytest.raises(DiskFullError):  # what it would free, blocks that are still being written would take
        journal.append("reset", **{"pass": "b" * 16})
    assert path.read_bytes() == whole
    journal.append("end", time=1.0, code=4)
    journal.close()
    assert not (tmp_path / "reserve").exists()
    assert path.read_bytes().startswith(whole)
    assert Journal.read(path).ended == {"event": "end", "time": 1.0, "code": 4}


def test_a_disk_without_any_space_is_said_to_be_full_and_tears_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    _written(path, 3)
    whole = path.read_bytes()
    journal = Journal.open(path)

    def full(file: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFullError, match="same command"):
        journal.append("end", time=1.0, code=4)
    journal.close()
    assert path.read_bytes() == whole
