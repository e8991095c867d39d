"""Arrays, tables and single objects in a real S3 protocol, and over plain HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from chunkflow.errors import (
    AccessError,
    InputNotFoundError,
    IntegrityError,
    PlanError,
    StoreError,
    UsageError,
)
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.storage import inventory, retry
from chunkflow.storage.files import copy_tree, local_copy, object_sizes, remove_tree, write_atomic, written_in
from chunkflow.storage.identity import differences, identity
from chunkflow.storage.inventory import missing_chunks
from chunkflow.storage.layout import ArrayLayout, objects_of
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.records import RecordFolder, part_paths, read_record, record_path, shelf_in, write_record
from chunkflow.storage.retry import Conflict, take_counts
from chunkflow.storage.stores import ObjectPath, listed_once
from chunkflow.storage.tables import read_rows, read_table, write_table
from chunkflow.storage.volume import Volume, create_array, open_array
from chunkflow.testing import suites
from chunkflow.testing.object_store import PASS, Answer, Asked, Proxy

pytestmark = pytest.mark.thorough

UNIT = Scale((0.2, 0.1, 0.1))
SHAPE = (21, 37, 45)
LAYOUTS = {
    "sharded": ArrayLayout(SHAPE, "uint16", (8, 8, 8), (16, 24, 16)),
    "chunked": ArrayLayout(SHAPE, "uint16", (16, 24, 16), None),
    "0.4": ArrayLayout(SHAPE, "uint16", (16, 24, 16), None, 2),
}


def noise(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    data = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)
    data[: shape[0] // 3] = 0
    return data


def written(folder: ObjectPath, layout: ArrayLayout) -> tuple[Volume, np.ndarray]:
    volume, data = create_array(folder, layout, UNIT), noise(layout.shape)
    volume.write(volume.box, data)
    return volume, data


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_box_of_an_array_in_a_store_is_what_was_written(bucket: ObjectPath, name: str) -> None:
    volume, data = written(bucket / "a", LAYOUTS[name])
    again = open_array(str(bucket / "a"), UNIT, read_only=True)
    rng = np.random.default_rng(2)
    for _ in range(6):
        a, b = np.sort([rng.integers(0, n + 1, 2) for n in SHAPE]).T
        box = Box(tuple(map(int, a)), tuple(map(int, np.minimum(np.maximum(b, a + 1), SHAPE))))
        if box.size and all(x < y for x, y in zip(box.start, box.stop, strict=True)):
            np.testing.assert_array_equal(again.read(box), data[box.slices])
    np.testing.assert_array_equal(again.read(again.box), data)
    assert volume.layout == LAYOUTS[name]


def test_a_shard_is_put_whole_in_one_request_and_a_halo_reads_ranges_of_it(bucket: ObjectPath, proxy: Proxy) -> None:
    layout = ArrayLayout((64, 64, 64), "uint16", (16, 16, 16), (64, 64, 64))
    volume = create_array(bucket / "a", layout, UNIT)
    data = noise(layout.shape)
    data[0] = 1
    before = proxy.counts["PUT"]
    volume.write(volume.box, data)
    assert proxy.counts["PUT"] - before == 1
    (size,) = object_sizes(volume.path, ["c/0/0/0"])
    assert size is not None
    take_counts()
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), (8, 8, 8))), data[:8, :8, :8])
    counts = take_counts()
    assert counts["get"] == 2  # its index, and the one chunk
    assert counts["bytes_read"] < size / 8


def test_a_write_that_cuts_through_a_shard_is_refused_before_any_request(bucket: ObjectPath) -> None:
    volume, data = written(bucket / "a", LAYOUTS["sharded"])
    take_counts()
    for box in (Box((0, 0, 0), (16, 24, 8)), Box((8, 0, 0), (16, 24, 16)), Box((0, 0, 0), (21, 30, 45))):
        with pytest.raises(PlanError, match="cuts through files"):
            volume.write(box, np.zeros(box.shape, np.uint16))
    assert take_counts() == {}
    np.testing.assert_array_equal(volume.read(volume.box), data)


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_an_absent_object_reads_as_fill(bucket: ObjectPath, proxy: Proxy, name: str) -> None:
    volume, data = written(bucket / "a", LAYOUTS[name])
    gone = objects_of(volume.layout, Box((16, 24, 16), (21, 37, 32)))
    assert len(gone) == 1
    (bucket / "a" / gone[0]).unlink()
    data[16:21, 24:37, 16:32] = 0
    np.testing.assert_array_equal(volume.read(volume.box), data)
    assert missing_chunks(volume) == 1
    proxy.rule = lambda asked: Answer(403, "AccessDenied") if "/c/" in asked.path or "/1/" in asked.path else PASS
    with pytest.raises(AccessError, match="the store refuses access to s3://.* Check the credentials"):
        volume.read(volume.box)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_store_that_is_down_is_an_error_and_never_fill(
    bucket: ObjectPath, proxy: Proxy, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, _ = written(bucket / "a", LAYOUTS["sharded"])
    monkeypatch.setattr(retry, "PATIENCE_SECONDS", 0.1)
    proxy.rule = lambda asked: Answer(status)
    with pytest.raises(StoreError, match=f"last: status {status}, SlowDown"):
        volume.read(volume.box)
    with pytest.raises(StoreError):
        volume.write(volume.box, noise(SHAPE))
    with pytest.raises(StoreError):
        object_sizes(volume.path, ["c/0/0/0"])
    with pytest.raises(StoreError):
        open_array(bucket / "a", UNIT)


def test_refusals_delays_and_cut_lines_that_pass_change_nothing(bucket: ObjectPath, proxy: Proxy) -> None:
    def rule(asked: Asked) -> Answer:
        if asked.number % 3 == 0:
            return Answer(503)
        return Answer(lost=True) if asked.number % 7 == 0 else Answer(delay=0.02 * (asked.number % 5 == 0))

    proxy.rule = rule
    volume, data = written(bucket / "a", LAYOUTS["sharded"])
    np.testing.assert_array_equal(volume.read(volume.box), data)
    assert take_counts()["retries"] >= proxy.counts["refused"] > 5


@pytest.mark.parametrize("what", ["truncated", "emptied", "flipped"])
@pytest.mark.parametrize("name", ["sharded", "chunked"])
def test_a_damaged_object_is_an_error(bucket: ObjectPath, name: str, what: str) -> None:
    volume, _ = written(bucket / "a", LAYOUTS[name])
    path = bucket / "a" / "c/1/1/1"
    content = path.read_bytes()
    flipped = bytes([content[0] ^ 4]) + content[1:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    path.write_bytes({"truncated": content[: len(content) // 2], "emptied": b"", "flipped": flipped}[what])
    with pytest.raises(IntegrityError, match="damaged"):
        volume.read(volume.box)


def test_a_conditional_put_refuses_what_is_there(bucket: ObjectPath) -> None:
    path = bucket / "journal" / "1"
    path.create(b"ours")
    path.create(b"ours")  # an answer that was lost: it is ours
    with pytest.raises(Conflict):
        path.create(b"theirs")
    assert path.read_bytes() == b"ours"


def test_a_conditional_put_whose_answer_is_lost_is_ours(bucket: ObjectPath, proxy: Proxy) -> None:
    lost: list[int] = []

    def rule(asked: Asked) -> Answer:
        if asked.method == "PUT" and not lost:
            lost.append(asked.number)
            return Answer(lost=True)
        return PASS

    proxy.rule = rule
    (bucket / "a").create(b"ours")
    assert lost
    assert (bucket / "a").read_bytes() == b"ours"
    stamp = (bucket / "a").stamp()
    assert stamp is not None
    lost.clear()
    after = (bucket / "a").replace_if(b"ours again", stamp)
    assert lost
    assert after.tag == (bucket / "a").read_stamped()[1].tag != stamp.tag


def test_an_object_is_replaced_only_where_it_is_the_one_known(bucket: ObjectPath) -> None:
    path = bucket / "owner"
    path.write_bytes(b"first")
    known = path.stamp()
    assert known is not None
    path.replace_if(b"second", known)
    with pytest.raises(Conflict):
        path.replace_if(b"third", known)
    assert path.read_bytes() == b"second"
    path.unlink()
    with pytest.raises(Conflict):
        path.replace_if(b"third", known)
    assert not path.exists()


def test_a_listing_of_several_pages_holds_every_object_once(bucket: ObjectPath) -> None:
    names = [f"f/{n:04d}" for n in range(1003)]
    with written_in(bucket) as folder:
        (folder / "f").mkdir()
        (folder / "g").write_bytes(b"x")
        for name in names:
            (folder / name).write_bytes(name.encode())
    assert [path.key for path, _ in (bucket / "f").walk()] == names
    assert sorted(path.key for path in bucket.iterdir()) == ["f", "g"]
    take_counts()
    with listed_once(bucket):
        assert object_sizes(bucket, [*names, "no"]) == [6] * 1003 + [None]
        assert (bucket / "f").is_dir() and not (bucket / "h").exists()
    assert take_counts() == {"list": 2}
    remove_tree(bucket / "f")
    assert [path.key for path, _ in bucket.walk()] == ["g"]
    assert take_counts()["delete"] == 2


def test_files_records_and_tables_are_what_was_written(bucket: ObjectPath) -> None:
    write_atomic(bucket / "a.txt", b"text")
    with local_copy(bucket / "a.txt") as copy:
        assert copy.read_bytes() == b"text"
    assert not copy.exists()
    copy_tree(bucket, bucket / "copied")
    assert (bucket / "copied" / "a.txt").read_text() == "text"
    folder, arrays = bucket / "records", {"a": np.arange(5), "b": np.eye(2)}
    assert write_record(record_path(folder, 1003), arrays) == record_path(folder, 1003).size()
    found = RecordFolder(folder, 1004)[1003]
    np.testing.assert_array_equal(found["a"], arrays["a"])
    assert part_paths(folder) == [record_path(folder, 1003)]
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_record(record_path(folder, 0))
    with shelf_in(folder) as shelf:
        shelf.put("x", arrays)
        np.testing.assert_array_equal(shelf.take("x")["b"], arrays["b"])
    assert not (folder / "shelf").exists()
    columns = {"object_id": np.arange(1, 6, dtype=np.uint64), "volume_um3": np.linspace(0, 1, 5)}
    write_table(bucket / "tables", "objects", columns)
    np.testing.assert_array_equal(read_table(bucket / "tables", "objects").volume_um3, columns["volume_um3"])
    assert read_rows(bucket / "tables", "objects", objects=[2, 4]).object_id.tolist() == [2, 4]
    with pytest.raises(InputNotFoundError):
        read_table(bucket / "tables", "nodes")


def test_a_changed_input_is_told_by_the_stores_tags(bucket: ObjectPath) -> None:
    volume, _ = written(bucket / "a", LAYOUTS["sharded"])
    before = identity(volume)
    path = bucket / "a" / "c/1/1/1"
    path.write_bytes(path.read_bytes())
    assert differences(before, identity(volume)) == []  # put again, the same bytes
    path.write_bytes(path.read_bytes()[::-1])
    assert differences(before, identity(volume)) == ["chunk c/1/1/1 was rewritten"]
    path.unlink()
    assert differences(before, identity(volume)) == ["chunk c/1/1/1 was removed"]


def test_a_petabyte_is_known_from_a_bounded_number_of_requests(bucket: ObjectPath) -> None:
    layout = ArrayLayout((2**17, 2**17, 2**15), "uint16", (64, 64, 64), (128, 128, 128))  # 1.1 PB, 2.7 10^8 objects
    volume = create_array(bucket / "a", layout, UNIT)
    take_counts()
    seen = identity(volume)
    assert seen["files"] == 0
    assert missing_chunks(volume) == 2**28
    counts = take_counts()
    assert counts["head"] <= 2 * inventory.SAMPLED_FILES + 4
    assert "list" not in counts
    (bucket / "a" / "c/1023/1023/255").write_bytes(b"one of the sample")
    assert differences(seen, identity(volume))


def test_a_bucket_that_does_not_exist_is_named(bucket: ObjectPath) -> None:
    with pytest.raises(AccessError, match=r"^the bucket of s3://no-such-bucket/a.* does not exist"):
        open_volume("s3://no-such-bucket/a")
    with pytest.raises(InputNotFoundError, match="does not exist. Check the path"):
        open_volume(str(bucket / "a"))


def test_http_is_refused_unless_it_is_allowed(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StoreError, match="AWS_ALLOW_HTTP=true"):
        (bucket / "a").read_bytes()


class _Files(SimpleHTTPRequestHandler):
    """A web server that sends whole files only, as python's does."""

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Ranges(_Files):
    """One that sends ranges."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        asked = self.headers.get("Range")
        if asked is None or not path.is_file():
            return super().do_GET()
        content = path.read_bytes()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = (int(first), int(last) + 1) if first else (max(0, len(content) - int(last)), len(content))
        part = content[start:stop]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        return None


@contextmanager
def web_server(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listening.daemon_threads = True
    thread = Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.mark.parametrize("handler", [_Files, _Ranges])
def test_an_image_is_read_over_plain_http_and_never_written(handler: type[_Files], tmp_path: Path) -> None:
    data = noise((20, 30, 40))
    suites.write_volume(tmp_path / "in.ome.zarr", data, (0.2, 0.1, 0.1))
    with web_server(partial(handler, directory=str(tmp_path))) as address:
        volume = open_volume(f"{address}/in.ome.zarr")
        np.testing.assert_array_equal(volume.read(volume.box), data)
        np.testing.assert_array_equal(volume.read(Box((1, 2, 3), (4, 5, 6))), data[1:4, 2:5, 3:6])
        assert volume.scale.voxel_um == (0.2, 0.1, 0.1)
        assert missing_chunks(volume) == 0
        assert identity(volume)["files"] == 1
        with pytest.raises(UsageError, match="web servers are read only"):
            create_array(volume.path.replace("in.ome", "out.ome"), LAYOUTS["sharded"], UNIT)
