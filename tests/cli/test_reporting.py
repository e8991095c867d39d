"""`chunkflow report` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from chunkflow.cli.commands import app
from chunkflow.run.result import Result
from tests.report.conftest import run_rings


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run_rings(tmp_path_factory.mktemp("told"), report=False)


def test_a_report_is_written_again(out: Result) -> None:
    assert not (out.path / "report.html").exists()
    ended = CliRunner().invoke(app, ["report", str(out.path)])
    assert ended.exit_code == 0 and ended.stdout.split() == [str(out.path / "report.html")]
    assert "3 objects with 2 loops" in (out.path / "report.html").read_text()


def test_two_runs_are_compared_on_a_page(out: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["report", str(out.path), str(out.path)])
    assert ended.exit_code == 0 and ended.stdout.split() == ["runs-compared.html"]
    assert "What was asked differently" in Path("runs-compared.html").read_text()
    assert CliRunner().invoke(app, ["report", str(out.path), str(out.path), "--page", "x.html"]).exit_code == 0
    assert Path("x.html").is_file()


def test_what_is_no_run_is_refused(out: Result, tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert ended.exit_code == 2 and "holds no run" in ended.output
    ended = CliRunner().invoke(app, ["report", str(out.path), "--page", "x.html"])
    assert ended.exit_code == 2 and "--page" in ended.output
