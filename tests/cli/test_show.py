"""What commands print."""

from __future__ import annotations

import pytest
from rich.table import Table

from chunkflow.cli.show import PLAIN, new_console
from chunkflow.run.progress import progress


def test_boxes_of_voxels_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    core = "0:48,0:100,0:100"
    console = new_console()
    console.print(f"at {core}: it failed", **PLAIN)
    table = Table("block")
    table.add_row(f"{core}: in a table")
    console.print(table)
    with progress(console) as listener:
        listener({"event": "failed", "pass": "label", "unit": 3, "core": core, "error": "too bright"})
        listener({"event": "report", "path": "out/report.html"})
    said = capsys.readouterr().out
    assert said.count(f"{core}: ") == 3
    assert "report: out/report.html" in said
