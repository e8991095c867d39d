"""What the pages show works: commands parse, files are read, and everything runs in an empty folder.

A block is a fence, or an indented one in which a line begins with `chunkflow`. Comments in a page say what a block is:

    <!-- not run: REASON -->      the next block is not run (what parses is still parsed)
    <!-- exit code 3 -->          the next block's last command ends so
    <!-- file: NAME -->           the next block is a file of the folder
    <!-- first: chunkflow ... --> a command that the page takes as given
    <!-- after: PAGE -->          another page that it goes on from
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import jsonschema
import numpy as np
import pytest
import tifffile
import typer
import yaml
from scipy import ndimage
from typer.testing import CliRunner

import chunkflow as cf
from chunkflow.cli import app
from chunkflow.models.model import Stated
from chunkflow.plan.schema import pipeline_schema
from chunkflow.run.profiles import load_profile
from chunkflow.run.synthesise import synthesise
from chunkflow.run.training import Training
from chunkflow.testing.suites import write_volume

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "examples" / "README.md"])
OTHERS = (
    "pip", "python", "python3", "make", "docker", "apptainer", "conda", "ssh", "helm", "kubectl", "sbatch", "export",
    "git", "apt-get", ".venv/bin/pip", "chunkflow-env/bin/pip", "cd", "torchrun",
)  # fmt: skip
"""What a block may call besides chunkflow; such lines are shown to people, and never run."""
SHELL = ("bash", "sh", "console", "indented", "")
MARK = re.compile(r"<!-- (not run|exit code|file|first|after)(?:: | )(.*?) -->")
STAGES: dict[str, Any] = {"version": 1, "stages": ["threshold", "label"]}


@dataclass(frozen=True)
class Block:
    """A block of a page: where it begins, what language it is in, what the comments before it say."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str = ""
    exit_code: int = 0
    file: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Words of every command, without the program; comments are left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
        return [found[1:] for found in words if found[:1] == ["chunkflow"]]


def blocks_of(page: Path) -> Iterator[Block]:
    """Every block of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    marks: dict[str, str] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        start = at
        if fence := re.match(r"( *)```(\w*) ?(.*)$", line):
            at = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
            text = "\n".join(each.removeprefix(fence[1]) for each in lines[start + 1 : at])
            if fence[3] == "notest":
                marks["not run"] = "marked"
            yield made(page, start, fence[2], text, marks)
            marks = {}
        elif line.startswith("    ") and (not start or not lines[start - 1].strip()):
            while at + 1 < len(lines) and (lines[at + 1].startswith("    ") or not lines[at + 1].strip()):
                at += 1
            text = "\n".join(each[4:] for each in lines[start : at + 1]).strip()
            if re.search(r"^chunkflow ", text, re.MULTILINE):
                yield made(page, start, "indented", text, marks)
            marks = {}
        elif mark := MARK.fullmatch(line.strip()):
            if mark[1] == "first":
                yield made(page, start, "indented", mark[2], {})
            elif mark[1] == "after":
                yield made(page, start, "after", mark[2], {})
            else:
                marks[mark[1]] = mark[2]
        elif line.strip():
            named = re.search(r"(?:^|Save this as )`([\w.-]+\.ya?ml)`:$", line)
            marks = {"file": named[1]} if named else {}
        at += 1


def made(page: Path, line: int, language: str, text: str, marks: dict[str, str]) -> Block:
    return Block(
        page, line + 1, language, text, marks.get("not run", ""), int(marks.get("exit code", 0)), marks.get("file", "")
    )


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def shell(block: Block) -> bool:
    return block.language in SHELL and bool(block.commands)


# Fast: every command and every file can be read.


def test_pages_have_many_blocks() -> None:
    """The parser has teeth: it finds what is plainly there."""
    assert len([b for b in BLOCKS if shell(b)]) > 40
    assert sum(len(b.commands) for b in BLOCKS if shell(b)) > 80
    assert len([b for b in BLOCKS if b.language == "yaml"]) > 25
    assert len([b for b in BLOCKS if b.language == "python"]) > 12


@cache
def group() -> Any:
    return typer.main.get_command(app)


def wrong(words: list[str]) -> str:
    """Why a command line is not one; empty if it is. Nothing is run."""
    words = words[: next((i for i, word in enumerate(words) if word in (">", "|", "&&")), len(words))]
    try:
        with group().make_context("chunkflow", list(words)) as context:
            name, command, rest = group().resolve_command(context, [*context._protected_args, *context.args])
            command.make_context(name, rest, parent=context)
    except (click.exceptions.Exit, typer.Exit):
        return ""  # --help, --version and the like
    except Exception as error:
        return str(error.format_message()) if isinstance(error, click.ClickException) else repr(error)
    return ""


@pytest.mark.parametrize("words", ["runn p.yaml", "run p.yaml --blok 1 1 1", "run", "plan p.yaml --workers many"])
def test_what_is_no_command_is_noticed(words: str) -> None:
    assert wrong(shlex.split(words))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_the_page_exists_with_its_options(page: Path) -> None:
    installs = ("--install-completion", "--show-completion")  # they act while they are parsed
    found = {
        f"{block}: {shlex.join(words)}": wrong(words)
        for block in BLOCKS
        if block.page == page and shell(block)
        for words in block.commands
        if words[0] not in installs
    }
    assert {line: why for line, why in found.items() if why} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_within_the_text_exist(page: Path) -> None:
    known = group().commands
    shown = re.findall(r"`chunkflow ([a-z][\w-]*)((?: [^`]*)?)`", page.read_text(encoding="utf-8"))
    assert [name for name, _ in shown if name not in known] == []
    for name, rest in shown:
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert {option for option in re.findall(r"(?<=\s)--[\w-]+", rest)} <= options | {"--help"}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in SHELL], ids=str)
def test_other_programs_of_blocks_are_known(block: Block) -> None:
    """A misspelt `chunkflow` would otherwise be passed over."""
    lines = [line.removeprefix("$ ") for line in block.text.replace("\\\n", " ").splitlines()]
    first = {words[0] for line in lines if (words := shlex.split(line, comments=True))} if block.commands else set()
    assert first <= {"chunkflow", *OTHERS}


def keyed(value: Any) -> Any:
    """YAML of long ago reads a bare key `on` as true."""
    if isinstance(value, dict):
        return {"on" if key is True else key: keyed(each) for key, each in value.items()}
    return [keyed(each) for each in value] if isinstance(value, list) else value


def read_yaml_block(content: Any, folder: Path) -> None:
    """Read a block as what it is: stages, a pipeline, a part of one, a training, a profile, facts of a network."""
    content = keyed(content)
    if isinstance(content, list):
        content = {"version": 1, "stages": content}
    if "pairs" in content:
        Training.from_dict(content)
    elif "scheduler" in content:
        (folder / "profile.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        load_profile(str(folder / "profile.yaml"))
    elif "architecture" in content:
        Stated.from_dict({"usage": content["usage"]})
    elif "stride" in content:
        Stated.from_dict(content)
    elif "distributed" not in content:
        whole = content if {"stages", "extends"} & set(content) else STAGES | content
        jsonschema.validate(whole, schema())


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=str)
def test_files_on_the_page_are_read(block: Block, tmp_path: Path) -> None:
    read_yaml_block(yaml.safe_load(block.text), tmp_path)


@pytest.mark.parametrize(
    "text", ["- treshold", "version: 1\nstages: [{label: {min_voxel: 3}}]", "output: {sav: [image]}"]
)
def test_what_is_no_pipeline_is_noticed(text: str, tmp_path: Path) -> None:
    with pytest.raises(jsonschema.ValidationError):
        read_yaml_block(yaml.safe_load(text), tmp_path)


@cache
def schema() -> Any:
    return pipeline_schema()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_python_on_the_page_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


# Thorough: it runs.


LARGE = {"preview": (44, 104, 124)}
"""Pages that name voxels."""


def prepare(folder: Path, page: str) -> None:
    """Files under the names that pages use, but for those that the page writes itself."""
    written, voxel_um = written_by(RUN[page]), (0.2, 0.08, 0.08)
    synthesise(folder / "drawn", shape=LARGE.get(page, (24, 64, 64)), voxel_um=voxel_um, seed=3)
    voxels = cf.open_volume(folder / "drawn" / "image.ome.zarr")[:]
    scribbles = np.zeros(voxels.shape, np.uint8)
    scribbles[voxels <= np.percentile(voxels, 20)] = 1
    scribbles[voxels >= np.percentile(voxels, 99)] = 2
    beads = np.zeros((61, 80, 160), np.float32)
    beads[30, 40, 40] = beads[30, 40, 120] = 1e5
    beads = np.random.default_rng(0).poisson(ndimage.gaussian_filter(beads, (1.3, 1.3, 1.3)) + 10).astype(np.uint16)
    volumes = {name: voxels for name in ("in", "cells", "image", "stack")} | {"scribbles": scribbles, "beads": beads}
    for name, array in volumes.items():
        if f"{name}.ome.zarr" not in written:
            write_volume(folder / f"{name}.ome.zarr", array, voxel_um)
    shown = {"axes": "ZYX", "spacing": 0.2, "unit": "um"}
    for name in ("stack", "planes"):
        tifffile.imwrite(folder / f"{name}.tif", voxels, imagej=True, resolution=(12.5, 12.5), metadata=shown)
    stages = "stages: [{threshold: {method: otsu, smooth_um: 0.08}}, {label: {min_voxels: 30}}, skeleton, measure]\n"
    if "pipeline.yaml" not in written:
        (folder / "pipeline.yaml").write_text(f"version: 1\ninput: {{path: in.ome.zarr}}\n{stages}", encoding="utf-8")


def written_by(blocks: list[Block]) -> set[str]:
    """Images and pipelines that commands of a page write."""
    made = [words for block in blocks for words in block.commands if words[0] in ("import", "init")]
    return {words[words.index("-o") + 1] if "-o" in words else words[2] for words in made}


def done(words: list[str]) -> tuple[int, str]:
    """Run a command in this process; a file behind `>` gets what it prints. Returns its exit code and all output."""
    if words[0] == "run" and "--on" not in words:
        words = [*words, "--on", "serial"]  # starting workers takes longer than all pages
    target = Path(words[words.index(">") + 1]) if ">" in words else None
    result = CliRunner().invoke(app, words[: words.index(">")] if ">" in words else words)
    if target is not None:
        target.write_text(result.stdout, encoding="utf-8")
    return result.exit_code, result.output


def runnable(block: Block) -> bool:
    if block.not_run:
        return False
    is_shell = block.language in SHELL[:4] and bool(block.commands)
    return block.language in ("python", "after") or bool(block.file) or is_shell


RUN = {page.stem: [b for b in BLOCKS if b.page == page and runnable(b)] for page in PAGES}


def run_block(block: Block, names: dict[str, Any]) -> None:
    """Do what the block says, in this folder."""
    if block.language == "after":
        for before in RUN[block.text]:
            run_block(before, names)
    elif block.file:
        Path(block.file).write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        exec(compile(block.text, str(block), "exec"), names)
    for number, words in enumerate(block.commands if block.language in SHELL else [], start=1):
        code, said = done(words)
        wanted = block.exit_code if number == len(block.commands) else 0
        assert code == wanted, f"{block}: chunkflow {shlex.join(words)} ended with {code}:\n{said}"


@pytest.mark.thorough
@pytest.mark.parametrize("page", [stem for stem, blocks in RUN.items() if blocks])
def test_the_page_runs_from_top_to_bottom(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, page)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    names: dict[str, Any] = {"__name__": page}
    for block in RUN[page]:
        run_block(block, names)


def test_reasons_for_what_is_not_run_are_given() -> None:
    assert [str(block) for block in BLOCKS if block.not_run and len(block.not_run) < 3] == []
