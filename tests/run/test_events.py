"""The stream of a run's events: who hears of it, what stays on disk, and what GPUs and dashboards add to it."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import chunkflow as cf
from chunkflow.run import gpu_use
from chunkflow.run.dashboard import dashboard_of
from chunkflow.run.driver import run_plan
from chunkflow.run.engine import SerialEngine
from chunkflow.run.event_log import MOST_BYTES
from chunkflow.run.events import Stream, events_of
from chunkflow.run.gpu_use import Meter, Told, gpu_words, meter_of_process
from chunkflow.run.progress import progress

BLOCK = (16, 50, 60)
GIB = 2**30


def plan_of(volume: Path, output: Path) -> cf.Plan:
    return cf.Pipeline([cf.Threshold(), cf.Label()]).plan(volume, output, block=BLOCK)


def test_a_listener_the_log_and_the_file_have_the_same_events(
    demo_volume: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[dict[str, Any]] = []
    with caplog.at_level(logging.DEBUG, "chunkflow.events"):
        plan_of(demo_volume, tmp_path / "out").run(on="serial", device="cpu", on_event=heard.append)
    kept = [{k: v for k, v in event.items() if k != "time"} for event in events_of(tmp_path / "out" / "run")]
    assert kept == json.loads(json.dumps([event for event in heard if event["event"] != "unit"]))
    assert {"device", "plan", "pass"} <= {event["event"] for event in kept}
    logged = [record for record in caplog.records if record.name == "chunkflow.events"]
    assert [record.args for record in logged] == heard
    assert {r.levelname for r in logged if r.args["event"] == "unit"} == {"DEBUG"}  # type: ignore[call-overload, index]


def test_a_folder_that_cannot_be_written_ends_nothing_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    heard: list[Any] = []
    lost = Stream(heard.append)
    lost.keep_in(tmp_path / "nowhere")
    lost({"event": "warning", "text": "a"})
    assert heard == [{"event": "warning", "text": "a"}]
    stream = Stream()
    stream({"event": "device", "text": "early"})
    stream.keep_in(tmp_path)
    stream({"event": "warning", "text": "late"})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "warn')
    assert [event["text"] for event in events_of(tmp_path)] == ["early", "late"]


def test_the_file_has_a_most(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"x" * MOST_BYTES)
    stream = Stream()
    stream.keep_in(tmp_path)
    stream({"event": "warning", "text": "one too many"})
    assert list(events_of(tmp_path)) == []


# -- GPUs ----------------------------------------------------------------------------------------------------------


class Nvml(SimpleNamespace):
    """As pynvml, of one card that is busy by turns."""

    def __init__(self, **broken: Any) -> None:
        super().__init__(asked=0, wanted="")
        self.__dict__.update(broken)

    def nvmlInit(self) -> None:
        self.asked = 0

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> str:
        self.wanted = bus
        return "card"

    def nvmlDeviceGetUtilizationRates(self, card: str) -> Any:
        self.asked += 1
        return SimpleNamespace(gpu=80)

    def nvmlDeviceGetMemoryInfo(self, card: str) -> Any:
        return SimpleNamespace(used=3 * GIB, total=80 * GIB)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """(a module) -> the same, which is what `import pynvml` finds."""

    def instead(module: Any) -> Any:
        monkeypatch.setitem(sys.modules, "pynvml", module)
        monkeypatch.setattr(gpu_use, "gpu_bus_id", lambda: "0000:C1:00.0")
        return module

    meter_of_process.cache_clear()
    yield instead
    if (meter := meter_of_process()) is not None:
        meter.stop()
    meter_of_process.cache_clear()


def test_a_meter_tells_the_mean_share_and_the_most_bytes_since_it_was_asked() -> None:
    uses = iter([(0.0, 5, 9), (1.0, 7, 9), (0.5, 6, 9)])
    ended = Flag()

    def ask() -> tuple[float, int, int]:
        try:
            return next(uses)
        except StopIteration:
            ended.set()
            raise RuntimeError("the driver went away") from None

    meter = Meter(ask, seconds=0.001)
    assert ended.wait(5.0)
    assert meter.take() == (0.5, 7, 9)
    assert meter.take() is None


def test_events_come_now_and_then_with_what_every_worker_told_last() -> None:
    said: list[Any] = []
    now = [0.0]
    told = Told(said.append, lambda: now[0])
    told.hear("label", 1, (0.5, 1, 4))
    told.hear("label", 1, (0.6, 1, 4))
    told.hear("label", 2, None)
    told.hear("label", 2, (0.8, 2, 4))
    assert [event["workers"] for event in said] == [{"1": [0.5, 1, 4]}]
    now[0] = 60.0
    told.hear("label", 2, (1.0, 3, 4))
    assert said[1] == {"event": "gpu", "pass": "label", "workers": {"1": [0.6, 1, 4], "2": [1.0, 3, 4]}}


@pytest.mark.usefixtures("pretended_gpu")
def test_a_run_on_a_gpu_says_how_busy_it_was(demo_volume: Path, tmp_path: Path, nvml: Any) -> None:
    card = nvml(Nvml())
    shown = io.StringIO()
    with progress(Console(file=shown, width=200)) as listener:
        plan_of(demo_volume, tmp_path / "out").run(on="serial", on_event=listener)
    assert card.wanted == "0000:C1:00.0"
    events = [event for event in events_of(tmp_path / "out" / "run") if event["event"] == "gpu"]
    assert events
    assert all(list(event["workers"].values()) == [[0.8, 3 * GIB, 80 * GIB]] for event in events)
    assert "GPU 80% 3.0 of 80 GiB" in shown.getvalue()


def broken(*_: Any) -> Any:
    raise OSError("Driver/library version mismatch")


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize(
    "module",
    [None, Nvml(nvmlInit=broken), Nvml(nvmlDeviceGetHandleByPciBusId=broken), Nvml(nvmlDeviceGetMemoryInfo=broken)],
    ids=["no pynvml", "no driver", "no such card", "a card that does not tell"],
)
def test_without_means_to_tell_a_run_on_a_gpu_goes_on(
    demo_volume: Path, tmp_path: Path, nvml: Any, module: Any
) -> None:
    nvml(module)
    plan_of(demo_volume, tmp_path / "out").run(on="serial")
    assert not [event for event in events_of(tmp_path / "out" / "run") if event["event"] == "gpu"]


def test_people_are_told_the_mean_share_and_the_fullest_card() -> None:
    assert gpu_words({"1": (0.5, GIB, 8 * GIB), "2": (1.0, 2 * GIB, 8 * GIB)}) == "GPU 75% 2.0 of 8 GiB"
    assert gpu_words({}) == ""


# -- dashboards ----------------------------------------------------------------------------------------------------


@pytest.fixture
def page() -> Iterator[Callable[[bytes], int]]:
    """(content) -> port of a page on this machine."""
    servers: list[HTTPServer] = []

    def serve(content: bytes) -> int:
        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Page))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return int(servers[-1].server_address[1])

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9"])
def test_a_dashboard_is_named_as_it_is_reached_from_here(page: Any, host: str) -> None:
    port = page(b"<title>Dask Diagnostic UI</title>")
    found = dashboard_of(SimpleNamespace(dashboard_link=f"http://{host}:{port}/status"))
    assert found == f"http://{'127.0.0.1' if host == '127.9.9.9' else host}:{port}/status"


def test_no_dashboard_is_named_where_nobody_draws_one(page: Any) -> None:
    port = page(b"<p>Dask needs bokeh>=3.1.0 for the dashboard.</p>")
    for link in (f"http://127.0.0.1:{port}/status", "http://127.0.0.1:9/status", "file:///etc/passwd", None):
        assert dashboard_of(SimpleNamespace(dashboard_link=link)) == ""
    assert dashboard_of(object()) == ""


def test_a_run_says_where_the_dashboard_is_once(
    demo_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drawn(SerialEngine):
        dashboard = "http://127.0.0.1:1/status"

    shown = io.StringIO()
    monkeypatch.setattr("chunkflow.run.driver.engine_for", lambda *_, **__: Drawn())
    with progress(Console(file=shown, width=200)) as listener:
        run_plan(plan_of(demo_volume, tmp_path / "out"), device="cpu", on_event=listener)
    assert shown.getvalue().count("dask dashboard: http://127.0.0.1:1/status") == 1
    kept = [event for event in events_of(tmp_path / "out" / "run") if event["event"] == "dashboard"]
    assert [event["url"] for event in kept] == [Drawn.dashboard]


def test_what_is_said_after_a_kill_tore_a_line_is_kept(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"event": "pass", "pass": "scan"}\n{"event": "war')
    stream = Stream()
    stream.keep_in(tmp_path)
    stream({"event": "warning", "text": "a"})
    stream({"event": "warning", "text": "b"})
    assert [event.get("text") for event in events_of(tmp_path)] == [None, "a", "b"]
