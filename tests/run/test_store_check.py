"""`doctor` at an object store: every kind of request is tried, what is refused has its remedy, no secret is told."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from chunkflow.cli import app
from chunkflow.errors import AccessError, StoreError, UsageError
from chunkflow.run import store_check
from chunkflow.run.store_check import StoreCheck, check_store
from chunkflow.storage import connections, retry
from chunkflow.storage.connections import Stamp
from chunkflow.storage.retry import Conflict
from chunkflow.storage.stores import ObjectPath
from chunkflow.testing.object_store import ENVIRONMENT, PASS, SECRET, Answer, Asked

STEPS = ["put", "conditions", "get", "list", "copy", "clock", "delete"]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A store that is a dictionary, in place of the verbs of `ObjectPath`; {"refuse": {verb: error}} and the like."""
    objects: dict[str, tuple[bytes, int]] = {}
    how: dict[str, Any] = {"objects": objects, "refuse": {}, "ignores": (), "skew": 0.0}

    def asked(verb: str) -> None:
        if verb in how["refuse"]:
            raise how["refuse"][verb]

    def stamp(path: ObjectPath) -> Stamp | None:
        if path.key not in objects:
            return None
        content, version = objects[path.key]
        return Stamp(len(content), datetime.now(UTC) + timedelta(seconds=how["skew"]), str(version))

    def put(path: ObjectPath, content: bytes) -> Stamp:
        asked("put")
        objects[path.key] = (content, len(how) + sum(version for _, version in objects.values()) + 1)
        found = stamp(path)
        assert found is not None
        return found

    def create(path: ObjectPath, content: bytes) -> None:
        if path.key in objects and "create" not in how["ignores"]:
            raise Conflict(str(path))
        put(path, content)

    def replace_if(path: ObjectPath, content: bytes, known: Stamp) -> Stamp:
        there = stamp(path)
        if "replace_if" not in how["ignores"] and (there is None or there.tag != known.tag):
            raise Conflict(str(path))
        return put(path, content)

    def read(path: ObjectPath, start: int = 0, length: int = 10**9) -> bytes:
        asked("get")
        return objects[path.key][0][start : start + length]

    def walk(path: ObjectPath, *, at_most: int | None = None) -> Any:
        asked("list")
        for key in sorted(objects)[:at_most]:
            yield ObjectPath(path.root, key), None

    def copy_to(path: ObjectPath, target: ObjectPath) -> None:
        asked("copy")
        put(target, objects[path.key][0])

    def unlink(path: ObjectPath, missing_ok: bool = False) -> None:
        asked("delete")
        if "delete" not in how["ignores"]:
            objects.pop(path.key, None)

    verbs: dict[str, Callable[..., Any]] = {"stamp": stamp, "create": create, "replace_if": replace_if, "walk": walk}
    verbs |= {"read_bytes": read, "read_range": read, "copy_to": copy_to, "unlink": unlink}
    for name, verb in verbs.items():
        monkeypatch.setattr(ObjectPath, name, verb)
    return how


def checks(location: str = "s3://bucket/results") -> dict[str, StoreCheck]:
    return {check.step: check for check in check_store(location)}


def refused(code: str, status: int = 403) -> AccessError:
    return AccessError(f"the store refuses access to s3://bucket (status {status}, {code})", "Check the credentials")


def test_a_store_that_does_what_a_run_needs_is_well_and_left_as_it_was(kept: dict[str, Any]) -> None:
    kept["objects"]["results/image"] = (b"of somebody", 1)
    found = checks()
    assert list(found) == STEPS
    assert {check.verdict for check in found.values()} == {"ok"}
    assert all(" ms" in check.found for name, check in found.items() if name != "clock")
    assert "1 other object," in found["list"].found
    assert list(kept["objects"]) == ["results/image"]


def test_who_stops_half_way_leaves_nothing_behind(kept: dict[str, Any]) -> None:
    with closing(cast(Generator[StoreCheck, None, None], check_store("s3://bucket/results"))) as looking:
        next(looking)
        assert kept["objects"]
    assert not kept["objects"]


@pytest.mark.parametrize(("verb", "step"), [("get", "get"), ("list", "list"), ("copy", "copy"), ("delete", "delete")])
def test_a_right_that_is_missing_is_named_and_the_other_steps_are_tried(
    kept: dict[str, Any], verb: str, step: str
) -> None:
    kept["refuse"][verb] = refused("AccessDenied")
    found = checks()
    assert list(found) == STEPS
    assert [name for name, check in found.items() if check.verdict == "problem"] == [step]
    assert f"s3:{store_check.RIGHTS[step]}" in found[step].remedy


def test_where_nothing_may_be_put_an_input_can_still_be_looked_at(kept: dict[str, Any]) -> None:
    kept["objects"]["results/image"] = (b"of somebody", 1)
    kept["refuse"]["put"] = refused("AccessDenied")
    found = checks()
    assert list(found) == ["put", "list", "get"]
    assert (found["put"].verdict, found["list"].verdict, found["get"].verdict) == ("problem", "ok", "ok")
    assert "s3:PutObject" in found["put"].remedy and "11 bytes of s3://bucket/results/image" in found["get"].found


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (refused("RequestTimeTooSkewed"), "Set the clock"),
        (refused("InvalidAccessKeyId"), "does not know this key"),
        (refused("SignatureDoesNotMatch"), "AWS_SECRET_ACCESS_KEY"),
        (refused("ExpiredToken", 400), "Sign in again"),
        (StoreError("the store refuses a request for s3://b (status 301, PermanentRedirect)", "Check"), "AWS_REGION"),
        (
            StoreError("s3://b cannot be reached: no put was answered for 15 s (last: connect error)", ""),
            "nobody answers",
        ),
        (AccessError("the bucket of s3://b does not exist", "Check the name"), "name of the bucket"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_a_store_refuses_has_its_remedy(kept: dict[str, Any], error: Exception, words: str) -> None:
    kept["refuse"]["put"] = error
    check = checks()["put"]
    assert check.verdict == "problem" and words in check.remedy


@pytest.mark.parametrize(("verb", "header"), [("create", "If-None-Match"), ("replace_if", "If-Match")])
def test_a_store_that_ignores_conditions_is_a_problem(kept: dict[str, Any], verb: str, header: str) -> None:
    kept["ignores"] = (verb,)
    found = checks()
    assert [name for name, check in found.items() if check.verdict == "problem"] == ["conditions"]
    assert header in found["conditions"].found and "MinIO" in found["conditions"].remedy
    assert not kept["objects"]


def test_a_store_that_keeps_what_is_deleted_is_a_problem(kept: dict[str, Any]) -> None:
    kept["ignores"] = ("delete",)
    check = checks()["delete"]
    assert check.verdict == "problem" and "chunkflow-doctor" in check.found and "s3:DeleteObject" in check.remedy


@pytest.mark.parametrize(("skew", "verdict"), [(30, "ok"), (-120, "note"), (120, "note"), (-700, "problem")])
def test_a_clock_that_is_off_is_told(kept: dict[str, Any], skew: float, verdict: str) -> None:
    kept["skew"] = skew
    check = checks()["clock"]
    assert check.verdict == verdict
    assert verdict == "ok" or ("clock" in check.remedy and f"{abs(skew)}"[:2] in check.found)


def test_a_folder_is_no_store() -> None:
    with pytest.raises(UsageError, match="is no URL"):
        next(check_store("/data/results"))


@pytest.mark.thorough
def test_a_server_of_s3_is_well_and_empty_afterwards(bucket: ObjectPath) -> None:
    found = checks(f"{bucket}/results")
    assert list(found) == STEPS
    assert {check.verdict for check in found.values()} == {"ok"}, found
    assert list(bucket.walk()) == []


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("method", "code", "step"),
    [("PUT", "AccessDenied", "put"), ("GET", "AccessDenied", "get"), ("POST", "RequestTimeTooSkewed", "delete")],
)
def test_no_secret_is_told_of_what_a_server_refuses(
    bucket: ObjectPath, proxy: Any, method: str, code: str, step: str
) -> None:
    def rule(asked: Asked) -> Answer:
        is_list = "list-type" in asked.path
        return Answer(403, code) if asked.method == method and not is_list else PASS

    proxy.rule = rule
    runner = CliRunner()
    ended = runner.invoke(app, ["doctor", f"{bucket}/results", "--no-trial"])
    assert ended.exit_code == 1
    assert "PROBLEM" in ended.output and f"store {step}" in ended.output
    assert code in ended.output
    said = ended.output + str(ended.exception)
    assert SECRET not in said and ENVIRONMENT["AWS_ACCESS_KEY_ID"] not in said


@pytest.mark.thorough
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", ""])
def test_an_endpoint_where_nobody_answers_is_told_in_seconds(
    proxy: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address or f"{proxy.address}")
    monkeypatch.setattr(store_check, "PATIENCE_SECONDS", 0.5)
    connections.opened.cache_clear()
    began = datetime.now(UTC)
    first = next(check_store("s3://nobody-has-made-this/results"))
    assert (datetime.now(UTC) - began).total_seconds() < 5
    assert first.verdict == "problem" and "AWS_ENDPOINT_URL" in first.remedy
    connections.opened.cache_clear()
    assert retry._patience.get() is None
