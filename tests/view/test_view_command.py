"""`chunkflow view` as users call it: pictures without a display, the report, the server, remote folders, errors."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

import chunkflow as cf
from chunkflow.errors import InputNotFoundError, UsageError
from chunkflow.report.viewer_picture import BEGIN, END, put_picture
from chunkflow.view.browser import NAMES, find_browser
from chunkflow.view.neuroglancer import screenshot, showing

neuroglancer = pytest.importorskip("neuroglancer", reason="neuroglancer is not installed")
browser = pytest.mark.skipif(not any(map(shutil.which, NAMES)), reason="Chromium is not installed")
COMMAND = [sys.executable, "-c", "from chunkflow.cli import main; main()", "view"]


def png(width: int = 4, height: int = 3) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def get(url: str, **headers: str) -> tuple[int, bytes]:
    with urlopen(Request(url, headers=headers), timeout=10) as answer:
        return answer.status, answer.read()


def test_no_browser_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputNotFoundError, match=r"apt-get install chromium"):
        screenshot("wherever")
    with pytest.raises(InputNotFoundError, match="nobody is not a program"):
        find_browser("nobody")


def test_a_picture_stays_in_the_report_until_the_result_changes(results: dict[str, cf.Result], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(results["0.5"].path, out)
    before = (out / "report.html").read_text()
    assert BEGIN + END in before
    put_picture(out, png())
    once = (out / "report.html").read_text()
    put_picture(out, png(5, 5))
    twice = (out / "report.html").read_text()
    assert once.count("data:image/png") == twice.count("data:image/png") == before.count("data:image/png") + 1
    assert len(list((out / "run").glob("viewer-*.png"))) == 1
    from chunkflow.report.report import write_report

    write_report(cf.open_result(out))
    assert "Seen in Neuroglancer" in (out / "report.html").read_text()
    stored = out / "run" / "plan.json"
    stored.write_text(stored.read_text().replace('"fingerprints": {', '"fingerprints": {"more": "x",', 1))
    write_report(cf.open_result(out))
    assert "Seen in Neuroglancer" not in (out / "report.html").read_text()


def test_the_server_gives_ranges_to_those_who_have_the_address_and_not_the_journal(
    results: dict[str, cf.Result],
) -> None:
    out = results["0.5"].path
    shard = next((out / "image.ome.zarr" / "0").rglob("c/*/*/*"))
    name = shard.relative_to(out).as_posix()
    content = shard.read_bytes()
    with showing(out) as shown:
        assert shown.base.startswith("http://127.0.0.1:")
        assert shown.url.startswith(shown.base.partition("/data/")[0])  # one port is enough for both
        assert get(f"{shown.base}/{name}") == (200, content)
        assert get(f"{shown.base}/{name}", Range="bytes=10-29") == (206, content[10:30])
        assert get(f"{shown.base}/{name}", Range="bytes=-16") == (206, content[-16:])
        for hidden in ("run/journal.jsonl", "run/../run/journal.jsonl", "../seen.txt"):
            with pytest.raises(HTTPError, match="40[34]"):
                get(f"{shown.base}/{hidden}")
        with pytest.raises(HTTPError, match="404"):
            get(f"{shown.base.rpartition('/')[0]}/{name}")
    with pytest.raises(OSError, match="refused"):
        get(f"{shown.base}/{name}")


def test_a_port_that_is_taken_is_said(results: dict[str, cf.Result]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1"), showing(results["0.5"].path, port=port):
            pass


@pytest.mark.thorough
@pytest.mark.viewer
@browser
def test_a_picture_is_the_same_for_both_formats_and_for_a_remote_folder(
    results: dict[str, cf.Result], tmp_path: Path
) -> None:
    """Every other host is out of the browser's reach, so the page and the data come from this machine alone."""
    pictures = [pixels(screenshot(result.path, size=(600, 450))) for result in results.values()]
    with showing(results["0.5"].path) as shown:
        remote = ["--screenshot", str(tmp_path / "remote.png"), "--size", "600", "450"]
        ended = subprocess.run([*COMMAND, shown.base, *remote], capture_output=True, text=True, timeout=240)
        assert ended.returncode == 0, ended.stderr
    pictures.append(pixels((tmp_path / "remote.png").read_bytes()))
    assert pictures[0].shape[:2] == (450, 600)
    for picture in pictures[1:]:  # lines that cross are drawn in the order they arrive
        assert np.mean((picture != pictures[0]).any(axis=2)) < 1e-4
    colours = pictures[0].astype(int)
    assert ((colours.max(axis=2) - colours.min(axis=2)) > 60).sum() > 1000  # objects, skeletons and nodes


@pytest.mark.thorough
@pytest.mark.viewer
@browser
def test_the_command_writes_a_picture_into_file_and_report(results: dict[str, cf.Result], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(results["0.4"].path, out)
    asked = ["--screenshot", str(tmp_path / "a.png"), "--into-report", "--at", "12", "100", "100", "--layout", "xy-3d"]
    without = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    ended = subprocess.run([*COMMAND, str(out), *asked], capture_output=True, text=True, timeout=240, env=without)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [str(tmp_path / "a.png"), str(out / "report.html")]
    assert pixels((tmp_path / "a.png").read_bytes()).shape[:2] == (900, 1200)
    assert "Seen in Neuroglancer" in (out / "report.html").read_text()


@pytest.mark.thorough
@pytest.mark.viewer
def test_the_command_serves_until_it_is_interrupted(results: dict[str, cf.Result]) -> None:
    asked = [*COMMAND, str(results["0.5"].path), "--no-open"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            status, page = get(url)
            assert status == 200
            assert b"<script" in page
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "is not a folder"),
        ([".", "--screenshot", "a.png", "--size", "0", "5"], "is not positive"),
        (["nowhere", "--screenshot", "f.txt"], "Give a name that ends in .png"),
        (["nowhere", "--screenshot", "f"], "f: a picture is written as PNG"),
        ([".", "--layout", "six"], "layout 'six' is not known"),
        ([".", "--into-report"], "holds no run"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    from typer.testing import CliRunner

    from chunkflow.cli import app

    at = [str(tmp_path / word) if word in ("nowhere", ".") else word for word in arguments]
    ended = CliRunner().invoke(app, ["view", *at])
    assert ended.exit_code == 2
    assert said in ended.stderr
