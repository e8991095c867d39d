"""The page of errors knows every class, and errors name their section of it."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chunkflow import errors
from chunkflow.cli import app
from chunkflow.cli.panels import PANELS
from chunkflow.errors import ChunkflowError
from chunkflow.models.shipped import PickledError
from chunkflow.run.worker import StaleRunError

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ChunkflowError)]
SECTIONS = dict(re.findall(r"^## (\w+Error)\n\n(.*?)(?=^## )", TEXT, re.MULTILINE | re.DOTALL))


def test_every_error_has_a_section_and_no_other() -> None:
    assert len(CLASSES) > 15
    assert sorted(SECTIONS) == sorted(kind.__name__ for kind in CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_section_and_the_table_say_the_exit_code(kind: type[ChunkflowError]) -> None:
    assert SECTIONS[kind.__name__].startswith(f"Exit code {kind.exit_code}:")
    assert f"| [{kind.__name__}](#{kind.__name__.lower()}) | {kind.exit_code} |" in TEXT


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_names_its_section_and_still_pickles(kind: type[ChunkflowError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what", "remedy")))
    assert error.page == f"docs/troubleshooting.md#{kind.__name__.lower()}"


def test_errors_of_other_modules_name_the_section_of_the_nearest_class() -> None:
    assert PickledError("what").page.endswith("#modelerror")
    assert StaleRunError("what").page.endswith("#integrityerror")


def test_a_command_that_fails_names_the_page_behind_the_error() -> None:
    said = CliRunner().invoke(app, ["plan", "nowhere.yaml", "in.ome.zarr", "-o", "out"]).stderr.splitlines()
    assert said[-2].startswith("error: ")
    assert said[-1] == "more: docs/troubleshooting.md#inputnotfounderror"


@pytest.mark.parametrize("name", [name for lines in PANELS.values() for name in lines])
def test_the_help_of_a_command_fits_a_screen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = CliRunner().invoke(app, [name, "--help"]).stdout
    assert "Usage:" in said and len(said.splitlines()) <= 40


def test_the_list_of_commands_fits_a_screen_and_names_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = CliRunner().invoke(app, ["--help"]).stdout
    assert len(listed.splitlines()) <= 40
    shown = re.findall(r"^\S ([a-z][\w-]*) ", listed, re.MULTILINE)
    named = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert sorted(shown) == sorted(named) == sorted(name for lines in PANELS.values() for name in lines)
