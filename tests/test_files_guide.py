"""What docs/files.md shows can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from chunkflow.cli import app

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^chunkflow (.*)$", GUIDE, re.MULTILINE)]


def test_the_first_commands_run_from_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.splitlines():
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, done.output
    assert (tmp_path / "surfaces" / "meshes" / "1.ply").is_file()
    assert {path.name for path in (tmp_path / "tiffs").iterdir()} == {"image.tif", "again.tif"}


def test_every_command_and_option_is_known() -> None:
    known = typer.main.get_command(app)
    assert len(COMMANDS) > 12
    for command, *words in COMMANDS:
        options = {name for parameter in known.commands[command].params for name in parameter.opts}  # type: ignore[attr-defined]
        assert {word for word in words if word.startswith("-")} <= options


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\(((?!http)[^)#:]+)\)", GUIDE)
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
