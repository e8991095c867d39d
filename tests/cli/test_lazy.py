"""Help and completion of the command line import nothing that takes long, and all names are there all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

HEAVY = ("numba", "dask", "distributed", "zarr", "torch", "pandas", "bokeh", "scipy", "skimage", "networkx", "pyarrow")
TOP = "{module.partition('.')[0] for module in sys.modules}"


def printed(code: str, **environment: str) -> Any:
    """What a fresh process prints, as JSON."""
    import os

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("module", ["chunkflow", "chunkflow.cli", "chunkflow.cli.commands"])
def test_importing_the_command_line_imports_nothing_heavy(module: str) -> None:
    found = printed(f"import json, sys, {module}; print(json.dumps(sorted({TOP})))")
    assert "chunkflow" in found
    assert not set(found) & set(HEAVY)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["view", "--help"], ["train-pixels", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = f"""
import contextlib, io, json, sys
from chunkflow.cli import app
with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
    app({words!r}, prog_name="chunkflow")
print(json.dumps([said.getvalue(), sorted({TOP})]))
"""
    said, found = printed(code)
    assert "Usage: chunkflow" in said
    assert "<bool>" not in said  # after a flag, which takes no value
    assert not set(found) & set(HEAVY)


def test_completion_knows_commands_and_options_and_imports_nothing_heavy() -> None:
    code = f"""
import contextlib, io, json, sys
from chunkflow.cli import app
with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
    app([], prog_name="chunkflow")
print(json.dumps([said.getvalue(), sorted({TOP})]))
"""
    completed = {
        "chunkflow re": ["report"],
        "chunkflow run --over": ["--overwrite"],
        "chunkflow view out --layout x": ["xy", "xz", "xy-3d"],
        "chunkflow init neu": ["neurites-em"],
        "chunkflow run p.yaml --on s": ["serial", "slurm"],
        "chunkflow psf psf.tif --microscope c": ["confocal"],
    }
    for typed, expected in completed.items():
        asked = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_CHUNKFLOW_COMPLETE": "complete_bash"}
        said, found = printed(code, **asked)
        assert said.split() == expected
        assert not set(found) & set(HEAVY)


def test_every_name_of_the_package_is_there_when_it_is_asked_for() -> None:
    code = """
import json
import chunkflow as cf
listed = dir(cf)
homes = {name: getattr(cf, name).__module__ for name in cf.__all__}
print(json.dumps([listed, homes, cf.__version__, cf.errors.PlanError.__name__]))
"""
    listed, homes, version, error = printed(code)
    assert set(homes) <= set(listed) and len(homes) > 25
    assert homes["Pipeline"] == "chunkflow.plan.pipeline" and homes["BatchOptions"] == "chunkflow.run.batch"
    assert version and error == "PlanError"


def test_a_name_that_is_not_there_is_said_as_of_any_module() -> None:
    import chunkflow as cf

    with pytest.raises(AttributeError, match="module 'chunkflow' has no attribute 'Deconvolv'"):
        cf.Deconvolv
    with pytest.raises(ImportError, match="Deconvolv"):
        from chunkflow import Deconvolv  # noqa: F401


def test_the_names_for_type_checkers_are_those_that_are_imported() -> None:
    import ast

    import chunkflow as cf

    (block,) = (node for node in ast.parse(Path(cf.__file__).read_text()).body if isinstance(node, ast.If))
    named = {
        (alias.asname or alias.name): f"{line.module}:{alias.name}"
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    assert named == cf._HOMES and sorted(named) == sorted(cf.__all__)


def defaults(command: str) -> dict[str, Any]:
    from chunkflow.cli import app

    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return {param.name: param for param in found.params}


def test_defaults_that_commands_spell_out_are_those_of_python() -> None:
    """They are written twice, so that help need not import what has them."""
    from chunkflow.run import engine, synthesise, train_pixels, verify

    synth, pixels = defaults("synth"), defaults("train-pixels")
    assert (synth["shape"].default, synth["voxel_um"].default) == (synthesise.SHAPE, synthesise.VOXEL_UM)
    assert pixels["per_class"].default == train_pixels.PER_CLASS
    assert pixels["percentiles"].default == train_pixels.PERCENTILES
    assert f"{verify.BLOCKS} by default" in defaults("verify")["blocks"].help
    for command in ("run", "plan", "demo"):
        assert defaults(command)["on"].help.startswith(f"{', '.join(engine.PLACES)}, or")
