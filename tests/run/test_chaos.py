"""The matrix of faults (`chunkflow.testing.chaos`), and that it would notice if a promise were broken."""

from collections.abc import Callable
from pathlib import Path

import pytest

from chunkflow.testing.chaos import faults
from chunkflow.testing.chaos.cases import all_cases
from chunkflow.testing.chaos.matrix import PROMISES, CannotRunError, Case, Row, run_case, run_matrix, table
from chunkflow.testing.chaos.mutants import MUTANTS, Mutant, survives

FILES = ("P2", "P3")  # in test_chaos_files.py, so that two workers share them


def marked(cases: list[Case]) -> list[object]:
    """Cases of the quick subset are thorough, the others slow."""
    marks = {True: pytest.mark.thorough, False: pytest.mark.slow}
    return [pytest.param(case, id=f"{case.promise} {case.name}", marks=marks[case.quick]) for case in cases]


@pytest.mark.parametrize("case", marked([case for case in all_cases() if case.promise not in FILES]))
def test_a_promise_holds_when(case: Case) -> None:
    try:
        run_case(case)
    except CannotRunError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.promise} {mutant.name}")
def test_a_broken_promise_is_noticed(mutant: Mutant) -> None:
    assert not survives(mutant)


def test_every_promise_has_cases_and_every_mutant_names_one() -> None:
    names = {(case.promise, case.name) for case in all_cases()}
    assert len(names) == len(all_cases())
    assert {promise for promise, _ in names} == set(PROMISES)
    for mutant in MUTANTS:
        assert any(promise == mutant.promise and mutant.case in name for promise, name in names), mutant.name


def test_a_case_whose_fault_does_not_fire_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="no fault fired"):
        run_case(Case(promise="P1", name="idle", run=lambda folder: 0))


def test_failures_are_counted_and_missing_means_are_no_failures() -> None:
    def broken(folder: Path) -> int:
        raise ValueError("a hole")

    def cannot(folder: Path) -> int:
        raise CannotRunError("mount needs rights")

    cases = [Case(promise="P3", name=n, run=r) for n, r in (("good", lambda f: 2), ("bad", broken), ("none", cannot))]
    said: list[str] = []
    (row,) = run_matrix(cases, said.append)
    assert (row.cases, row.faults, row.failures, row.skipped) == (2, 2, 1, ["none: mount needs rights"])
    assert row.errors == ["bad: ValueError: a hole"]
    assert len(said) == 3
    assert any(line.startswith("failed: P3 bad") for line in table([row]))
    assert Row("P1").to_dict()["failures"] == 0


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_a_fault_changes_the_file(fault: Callable[[Path, Path], None], tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 10)
    before = (tmp_path / "one").stat().st_mtime_ns
    faults.after_a_tick(fault, tmp_path / "one", tmp_path / "two")
    content = (tmp_path / "one").read_bytes() if (tmp_path / "one").exists() else None
    assert content != b"one" * 10
    if fault in (faults.flip, faults.zero):
        assert (tmp_path / "one").stat().st_mtime_ns == before
        assert content is not None and len(content) == 30
