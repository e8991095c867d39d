import errno
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from chunkflow.errors import DiskFullError
from chunkflow.storage.files import (
    atomic_path,
    disk_full_reported,
    local_copy,
    object_sizes,
    sweep_partial_files,
    temporary_folder,
    write_atomic,
    written_in,
)
from chunkflow.storage.stores import ObjectPath


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


OBJECT = ObjectPath("s3://bucket", "out/table")


@pytest.mark.parametrize(
    "opened", [temporary_folder, lambda: local_copy(OBJECT), lambda: atomic_path(OBJECT), lambda: written_in(OBJECT)]
)
def test_a_temporary_folder_that_is_gone_is_not_taken_for_an_absent_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[], AbstractContextManager[Any]]
) -> None:
    monkeypatch.setattr(ObjectPath, "read_bytes", lambda path: b"there")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(DiskFullError, match=r"gone \(No such file or directory\). Make room there, or set TMPDIR"):
        opened().__enter__()


def test_a_temporary_folder_that_goes_or_fills_while_it_is_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def write_where_it_was(folder: Path) -> None:
        folder.rmdir()
        (folder / "a").write_bytes(b"a")

    with pytest.raises(DiskFullError, match="temporary files cannot be written"), temporary_folder() as folder:
        write_where_it_was(folder)
    with pytest.raises(DiskFullError, match="temporary files cannot be written"), temporary_folder():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), temporary_folder() as folder:
        (folder / "nothing").read_bytes()
    assert not list(tmp_path.iterdir())
