"""How errors of the system end a command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer

from chunkflow.cli.endings import reported
from chunkflow.storage.files import write_atomic


@pytest.mark.skipif(
    not Path("/proc").is_dir() or os.statvfs("/proc").f_blocks > 0, reason="there is no /proc without files here"
)
def test_a_path_where_no_file_can_be_is_named_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    @reported
    def command() -> None:
        Path("/proc/chunkflow-test/out").mkdir(parents=True)

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 2
    said = capsys.readouterr().err
    assert "nothing can be written to /proc" in said and "Choose another path" in said
    assert "Traceback" not in said


def test_a_file_that_goes_missing_in_the_midst_is_unexpected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @reported
    def command() -> None:
        (tmp_path / "gone").read_bytes()

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 1
    assert "please report" in capsys.readouterr().err


def test_a_rename_that_is_refused_names_the_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page").mkdir()

    @reported
    def command() -> None:
        write_atomic(tmp_path / "page", b"<html>")

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'page'}: Is a directory" in said and "partial" not in said
