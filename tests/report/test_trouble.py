"""Reports of what went wrong: first on the page, and never in place of it."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from chunkflow.errors import IncompleteError, InputNotFoundError
from chunkflow.report.report import rebuild_report, write_report
from chunkflow.run.journal import Journal
from tests.report.conftest import rings, run_rings


def words(html: str) -> str:
    text = re.sub("<style>.*?</style>|<script.*?</script>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub("<[^>]*>", " ", text)).split())


def spoilt() -> object:
    """The rings with one NaN, in the block at 0:13,32:41,0:64."""
    image = rings()
    image[3, 40, 60] = float("nan")
    return image


def test_a_run_that_did_not_end_says_so_first_with_what_failed(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError):
        run_rings(tmp_path, image=spoilt(), command="chunkflow run it.yaml")
    text = words(Path(rebuild_report(tmp_path / "out")).read_text())
    lead = text.index("This result is not complete. The run ended with an error.")
    failed = text.index("1 block failed and was set aside")
    assert lead < failed < text.index("What ran") < text.index("Speed")
    assert "scan 2 0:13,32:41,0:64" in text and "the input holds NaN" in text
    assert "3 of " in text and "chunkflow run it.yaml" in text
    assert "Slices" not in text and "Objects" not in text and "could not be made" not in text


def test_holes_are_told_before_the_numbers_they_are_missing_in(tmp_path: Path) -> None:
    out = run_rings(tmp_path, image=spoilt(), allow_holes=True)
    text = words(Path(write_report(out)).read_text())
    told = text.index("blocks failed and were set aside")
    assert told < text.index("stand as background: the numbers of this result leave out") < text.index("total length")
    assert "Nothing was cut" not in text and "cut the objects that reach into them" in text
    assert "tainted by background in scan" in text[text.index("For experts") :]


def test_settings_that_were_changed_and_not_run_to_the_end_show_no_older_numbers(tmp_path: Path) -> None:
    out = run_rings(tmp_path)
    text = (out.path / "run" / "plan.json").read_text()
    fingerprint = re.findall('"label": "([0-9a-f]{64})"', text)[0]
    (out.path / "run" / "plan.json").write_text(text.replace(fingerprint, fingerprint[::-1]))
    page = words(Path(rebuild_report(out.path)).read_text())
    assert "This result is not complete." in page and "3 objects with" not in page


def test_of_hundreds_of_failed_blocks_some_are_named(tmp_path: Path) -> None:
    out = run_rings(tmp_path)
    journal = Journal.open(out.path / "run" / "journal.jsonl")
    fingerprint = journal.published_passes["label"]
    for unit in range(300):
        journal.append("quarantined", **{"pass": fingerprint, "unit": unit, "core": f"{unit}", "error": "of <it>"})
    journal.close()
    html = Path(write_report(out)).read_text()
    assert "300 blocks failed" in html and "And 275 more." in html and "of &lt;it&gt;" in html
    assert html.count("of &lt;it&gt;") == 25


def test_a_folder_without_a_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="no run"):
        rebuild_report(tmp_path)
