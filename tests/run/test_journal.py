"""The journal survives being cut or damaged anywhere: what is read is always a prefix of what was written."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from chunkflow.run.journal import Journal, PassState

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


def test_a_lost_unit_makes_its_pass_unfinished(tmp_path: Path) -> None:
    assert _written(tmp_path / "a.jsonl", 7).state("aa").finished
    assert not _written(tmp_path / "b.jsonl", 8).state("aa").finished
