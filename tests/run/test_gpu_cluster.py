"""One worker per GPU, on the CPU through the same interface: no GPU has run this file."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from distributed import LocalCluster

from chunkflow.errors import UsageError
from chunkflow.run.gpu_cluster import ONE_POOL, cuda_engine
from chunkflow.testing import suites


@pytest.mark.thorough
def test_an_engine_of_a_worker_per_gpu_passes_the_suite() -> None:
    given: dict[str, Any] = {}

    def start(**settings: Any) -> LocalCluster:
        given.update(settings)
        return LocalCluster(**{key: value for key, value in settings.items() if not key.startswith(("rmm", "enable"))})

    engine = cuda_engine(2, 2**31, options={"enable_nvlink": True}, start=start, device="cpu")
    try:
        suites.check_engine(engine)
        assert engine.workers == 2
    finally:
        engine.close()
    assert given["enable_nvlink"] is True
    assert (given["n_workers"], given["memory_limit"], given["host"]) == (2, 2**31, "127.0.0.1")
    assert (ONE_POOL.items() <= given.items()) == (find_spec("rmm") is not None)


@pytest.mark.skipif(find_spec("dask_cuda") is not None, reason="dask-cuda is installed")
def test_without_dask_cuda_the_remedy_is_named() -> None:
    with pytest.raises(UsageError, match=r"dask-cuda.*--on threads"):
        cuda_engine(2, 2**31)


@pytest.mark.thorough
def test_options_that_dask_refuses_are_those_of_the_profile() -> None:
    with pytest.raises(UsageError, match="refuses its options"):
        cuda_engine(1, 2**31, start=_refusing, device="cpu")


def _refusing(**settings: Any) -> Any:
    raise TypeError("unexpected keyword argument 'enable_nvlnik'")
