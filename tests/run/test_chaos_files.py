"""The part of the matrix of faults that is about files and kills; the rest is in test_chaos.py."""

import pytest

from chunkflow.testing.chaos.cases import all_cases
from chunkflow.testing.chaos.matrix import CannotRunError, Case, run_case

MARKS = {True: pytest.mark.thorough, False: pytest.mark.slow}
CASES = [
    pytest.param(case, id=f"{case.promise} {case.name}", marks=MARKS[case.quick])
    for case in all_cases()
    if case.promise in ("P2", "P3")
]


@pytest.mark.parametrize("case", CASES)
def test_a_promise_holds_when(case: Case) -> None:
    try:
        run_case(case)
    except CannotRunError as error:
        pytest.skip(str(error))
