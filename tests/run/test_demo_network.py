"""The second part of the demo: the network that comes with the package finds what was drawn."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.run import demo_network


def test_the_network_is_within_its_tolerance_and_a_second_run_computes_nothing(tmp_path: Path) -> None:
    assert demo_network.why_not() == ""
    done = demo_network.run_network_demo(tmp_path, on="serial", device="cpu")
    assert done.is_within, done.rows
    assert {row.name for row in done.rows} == {"length_to_tips_um", "dice"}
    events = []
    demo_network.run_network_demo(tmp_path, on="serial", device="cpu", on_event=events.append)
    assert not [event for event in events if event["event"] == "unit"]
