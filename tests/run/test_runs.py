"""Results below a folder, and what each holds."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import chunkflow as cf
from chunkflow.cli import app
from chunkflow.errors import InputNotFoundError, UsageError
from chunkflow.run.batch_state import BatchState
from chunkflow.run.batch_status import batch_status
from chunkflow.run.lock import OutputLock
from chunkflow.run.runs import results_below, statuses
from chunkflow.run.segments import journal_line


@pytest.fixture
def folder(demo_volume: Path, tmp_path: Path) -> Path:
    """Two results, one of them interrupted, beside an image."""
    pipeline = cf.Pipeline([cf.Threshold(), cf.Label()])
    (tmp_path / "image.ome.zarr" / "run").mkdir(parents=True)
    (tmp_path / "image.ome.zarr" / "run" / "journal.jsonl").touch()

    def interrupt(event: dict[str, object]) -> None:
        if event["event"] == "unit" and event["pass"] == "label":
            raise KeyboardInterrupt

    pipeline.plan(demo_volume, tmp_path / "a" / "whole", block=(32, 100, 120)).run(on="serial")
    stopped = pipeline.plan(demo_volume, tmp_path / "b", block=(16, 100, 120))
    with pytest.raises(KeyboardInterrupt):
        stopped.run(on="serial", on_event=interrupt)
    return tmp_path


def test_results_are_found_below_and_not_inside_images(folder: Path) -> None:
    assert list(results_below(folder)) == [folder / "a" / "whole", folder / "b"]
    assert [one.state for one in statuses(folder)] == ["complete", "interrupted"]


def test_the_command_lists_them(folder: Path) -> None:
    shown = CliRunner().invoke(app, ["status", str(folder)], env={"COLUMNS": "300"})
    assert shown.exit_code == 0
    assert "complete" in shown.output and "interrupted" in shown.output
    said = json.loads(CliRunner().invoke(app, ["status", str(folder), "--json"]).stdout)
    assert [one["state"] for one in said] == ["complete", "interrupted"]


@pytest.mark.parametrize(
    ("file", "content"),
    [("plan.json", b"{}"), ("plan.json", b"[]"), ("journal.jsonl", journal_line("no JSON")), ("journal.jsonl", None)],
)
def test_a_damaged_result_does_not_hide_the_others(file: str, content: bytes | None, folder: Path) -> None:
    damaged = folder / "b" / "run" / file
    damaged.unlink()
    damaged.mkdir() if content is None else damaged.write_bytes(content)
    found = {one.output.name: one.state for one in statuses(folder)}
    assert found["whole"] == "complete"
    assert found["b"] != "complete"
    shown = CliRunner().invoke(app, ["status", str(folder)], env={"COLUMNS": "300"})
    assert shown.exit_code == 0
    assert (found["b"] == "unreadable") == ("says why" in shown.output)


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="holds no run"):
        statuses(tmp_path)
    with pytest.raises(InputNotFoundError, match="is no folder"):
        statuses(tmp_path / "nothing")


def test_a_batch_says_what_failed_and_what_tries_it_again(demo_volume: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.tif").write_bytes(b"II*\0")
    out = tmp_path / "out"
    pipeline = cf.Pipeline([cf.Threshold(), cf.Label()])
    options = cf.BatchOptions(on="serial", command="chunkflow run p.yaml data -o out")
    cf.run_batch(pipeline, [demo_volume, tmp_path / "torn.tif"], out, options=options)
    found = batch_status(out)
    assert (found.state, found.images, found.done, found.left) == ("failed", 2, 1, 0)
    (failed,) = found.failed
    assert failed.file.endswith("/torn") and "TIFF" in failed.error
    shown = CliRunner().invoke(app, ["status", str(tmp_path)], env={"COLUMNS": "300"})
    assert shown.exit_code == 0
    assert "2 images, 1 done, 1 failed" in shown.output and options.command in shown.output
    BatchState(out).file(failed.file).unlink()  # as a kill before it was tried leaves it
    assert (batch_status(out).state, batch_status(out).left) == ("interrupted", 1)
    with OutputLock(out / "run"):
        assert batch_status(out).state == "running"


def test_the_output_of_a_batch_is_not_taken_for_a_result(demo_volume: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cf.run_batch(cf.Pipeline([cf.Threshold(), cf.Label()]), [demo_volume], out, options=cf.BatchOptions(on="serial"))
    for refused in (lambda: cf.open_result(out), lambda: cf.export(out, "tiff")):
        with pytest.raises(UsageError, match="Name the result of one, such as .*out/in"):
            refused()
    assert [one.state for one in statuses(out / "in")] == ["complete"]
