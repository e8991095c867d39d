import errno
from pathlib import Path

import pytest

from chunkflow.errors import DiskFullError
from chunkflow.storage.files import atomic_path, disk_full_reported, object_sizes, sweep_partial_files, write_atomic


def fail_half_way(file: Path) -> None:
    with atomic_path(file) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.txt"
    write_atomic(file, b"old")
    with pytest.raises(RuntimeError):
        fail_half_way(file)
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in file.parent.iterdir()] == ["b.txt"]


def test_a_sweep_removes_unfinished_writes_only(tmp_path: Path) -> None:
    write_atomic(tmp_path / "c" / "0", b"x")
    (tmp_path / "c" / f"0.{'ab' * 16}.partial").write_bytes(b"half")
    (tmp_path / "notes.partial").write_bytes(b"mine")
    assert sweep_partial_files(tmp_path) == 1
    assert (tmp_path / "notes.partial").exists()
    assert object_sizes(tmp_path, ["c/0", "c/1", "notes.partial/0"]) == [1, None, None]


def test_no_space_is_an_error_with_a_remedy() -> None:
    with pytest.raises(DiskFullError, match=r"no space left to write out. Free some space"), disk_full_reported("out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), disk_full_reported("out"):
        raise PermissionError(errno.EACCES, "no")
