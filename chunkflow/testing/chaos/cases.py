"""All cases."""

from __future__ import annotations

from chunkflow.testing.chaos import (
    block_cases,
    disk_cases,
    engine_cases,
    file_cases,
    hostile_cases,
    live_cases,
    setting_cases,
    start_cases,
)
from chunkflow.testing.chaos.matrix import Case

GROUPS = (
    *(engine_cases, start_cases, file_cases, block_cases, setting_cases, hostile_cases, disk_cases),
    live_cases,
)


def all_cases() -> list[Case]:
    """Every case of every promise."""
    return [case for group in GROUPS for case in group.CASES]
