"""Places and requests, without a server."""

from __future__ import annotations

import json
import pickle
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import GCSStore, HTTPStore, S3Store

from chunkflow.errors import AccessError, InputError, StoreError, UsageError
from chunkflow.storage import retry
from chunkflow.storage.connections import at_once, opened
from chunkflow.storage.credentials import s3_options
from chunkflow.storage.retry import BeyondEnd, Conflict, Whole, added, request, take_counts
from chunkflow.storage.stores import ObjectPath, place_of

SECRET = "c2VjcmV0"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 1e-4)
    take_counts()


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION", "ENDPOINT_URL"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("PROFILE", "SKIP_SIGNATURE", "WEB_IDENTITY_TOKEN_FILE", "ENDPOINT"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def answers(*of: Exception | str) -> Callable[[], str]:
    """A request with these answers in turn."""
    waiting = list(of)

    def call() -> str:
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call


def status(number: int, code: str = "", kind: type[Exception] = GenericError) -> Exception:
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>"
    return kind(f"Server returned non-2xx status code: {number} Whatever: {body} Status {{ status: {number}, body }}")


@pytest.mark.parametrize(
    ("text", "root", "key"),
    [
        ("s3://bucket/a/b.ome.zarr", "s3://bucket", "a/b.ome.zarr"),
        ("S3://bucket//a/./b/", "s3://bucket", "a/b"),
        ("s3://bucket", "s3://bucket", ""),
        ("gs://bucket/a b", "gs://bucket", "a b"),
        ("https://host:81/a%20b/c", "https://host:81", "a b/c"),
    ],
)
def test_a_url_is_a_bucket_and_a_key(text: str, root: str, key: str) -> None:
    assert place_of(text) == ObjectPath(root, key)
    assert place_of(place_of(text)) == pickle.loads(pickle.dumps(place_of(text)))


@pytest.mark.parametrize("text", ["data/in.ome.zarr", "/data/a:b", "s3/bucket", "s3:bucket", "C:/x"])
def test_what_is_no_url_is_a_path_of_this_machine(text: str) -> None:
    assert place_of(text) == Path(text)
    assert place_of(f"file://{Path(text).absolute()}") == Path(text).absolute()


def test_an_object_path_has_the_verbs_of_a_path() -> None:
    key = PurePosixPath("a/b.zarr/c")
    path = ObjectPath("s3://x", str(key))
    assert (path.name, path.suffix, path.with_name("d").key) == (key.name, key.suffix, str(key.with_name("d")))
    assert [p.key for p in path.parents] == ["a/b.zarr", "a", ""]
    assert path.parent == path.parents[0] == ObjectPath("s3://x", "a") / "b.zarr"
    assert (path / "d/e").relative_to(path) == PurePosixPath("d/e")
    assert str(path) == "s3://x/a/b.zarr/c"
    assert path.parents[-1] / "a/b.zarr/c" == path
    with pytest.raises(ValueError):
        path.relative_to(ObjectPath("s3://other", "a"))
    with pytest.raises(TypeError):
        Path(path)  # type: ignore[arg-type]  # a folder called "s3:" must never come of it


@pytest.mark.parametrize(
    ("text", "message", "kind"),
    [
        ("az://container/a", "of a kind that cannot be opened", InputError),
        ("s3:///a", "names no bucket", InputError),
        (f"https://user:{SECRET}@host/a", "has a password or a query", UsageError),
        (f"s3://key:{SECRET}@bucket/a", "has a password or a query", UsageError),
        (f"https://host/a?X-Amz-Signature={SECRET}", "has a password or a query", UsageError),
        ("s3://bucket/a/../../b", "has '..' in its path", UsageError),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_repeated(text: str, message: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=message) as caught:
        place_of(text)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "passing",
    [
        status(500),
        status(503, "SlowDown"),
        status(429),
        status(408),
        status(400, "RequestTimeout"),
        GenericError("HTTP error: error sending request ... kind: Timeout"),
        GenericError("HTTP error: error decoding response body ... kind: Body"),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again_and_counted(passing: Exception) -> None:
    assert request("get", "s3://b/a", answers(passing, passing, "done")) == "done"
    assert take_counts() == {"get": 3, "retries": 2}
    assert take_counts() == {}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (FileNotFoundError("404"), FileNotFoundError),
        (FileNotFoundError("404: <Code>NoSuchBucket</Code>"), AccessError),
        (status(403, "AccessDenied", PermissionDeniedError), AccessError),
        (status(401, "", UnauthenticatedError), AccessError),
        (status(400, "ExpiredToken"), AccessError),
        (GenericError("error sending request for http://169.254.169.254/latest/api/token kind: Connect"), AccessError),
        (status(412, "PreconditionFailed", PreconditionError), Conflict),
        (status(409, "ConditionalRequestConflict", AlreadyExistsError), Conflict),
        (status(416, "InvalidRange"), BeyondEnd),
        (status(400, "InvalidArgument"), StoreError),
        (status(501, "NotImplemented"), StoreError),
        (GenericError("Received redirect without LOCATION"), StoreError),
        (GenericError("HTTP error: builder error ... kind: Builder, source: BadScheme"), StoreError),
        (NotSupportedError("no ranges"), Whole),
    ],
    ids=str,
)
def test_what_does_not_pass_is_said_at_once_without_what_the_store_wrote(
    answer: Exception, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        request("get", "s3://bucket/a", answers(answer, "never asked again"))
    assert type(caught.value) is kind
    assert take_counts() == {"get": 1}
    said = "".join(traceback.format_exception(caught.value))
    assert SECRET not in said
    assert "s3://bucket/a" in said
    if isinstance(caught.value, StoreError):
        assert caught.value.remedy
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_only_a_404_of_an_object_is_an_absent_file() -> None:
    for answer in (status(403, "", PermissionDeniedError), FileNotFoundError("<Code>NoSuchBucket</Code>"), status(400)):
        with pytest.raises(Exception) as caught:
            request("get", "s3://bucket/a", answers(answer))
        assert not isinstance(caught.value, FileNotFoundError)


def test_a_store_that_never_answers_is_given_up_with_the_last_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(StoreError, match=r"no get was answered for 0 s \(last: status 503, SlowDown\)") as caught:
        request("get", "s3://bucket/a", answers(*[status(503, "SlowDown")] * 1000))
    assert caught.value.exit_code == 1
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert take_counts()["retries"] >= 3


def test_no_request_of_threads_side_by_side_is_counted_twice_or_lost() -> None:
    def work(_: int) -> dict[str, int]:
        for _ in range(50):
            request("head", "x", lambda: "")
        return take_counts()

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(work, range(40)))
    total: dict[str, int] = {}
    for part in (*parts, take_counts()):
        total = added(total, part)
    assert total == {"head": 2000}


def test_results_of_concurrent_requests_are_in_order() -> None:
    assert at_once(lambda n: n * n, range(100)) == [n * n for n in range(100)]


@pytest.mark.usefixtures("clean_environment")
def test_keys_region_and_endpoint_are_those_of_the_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert s3_options() == {}
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n"
        "[lab]\naws_access_key_id = B\naws_secret_access_key = C\naws_session_token = D\n"
    )
    (tmp_path / "config").write_text(
        "[default]\nregion = eu-central-1\n[profile lab]\nregion = us-west-2\nendpoint_url = https://minio.lab\n"
    )
    assert s3_options() == {"region": "eu-central-1", "access_key_id": "A", "secret_access_key": SECRET}
    monkeypatch.setenv("AWS_PROFILE", "lab")
    lab = {"region": "us-west-2", "endpoint": "https://minio.lab"}
    assert s3_options() == {**lab, "access_key_id": "B", "secret_access_key": "C", "token": "D"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "E")  # the environment wins
    assert s3_options() == lab
    monkeypatch.setenv("AWS_REGION", "us-east-2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://other")
    assert s3_options() == {}


@pytest.mark.usefixtures("clean_environment")
def test_a_profile_that_signs_in_otherwise_asks_for_boto3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nsso_session = lab\nregion = eu-central-1\n")
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", None)
    with pytest.raises(AccessError, match=r"profile default signs in by sso_session, which needs boto3. pip install"):
        s3_options()
    (tmp_path / "config").write_text(f"not a file of profiles {SECRET}")
    with pytest.raises(AccessError, match="cannot be read") as caught:
        s3_options()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("clean_environment")
def test_each_kind_of_url_opens_its_store_with_our_retries_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "A")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    account: Any = {
        "gcs_base_url": "https://storage.test",
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
    }
    (tmp_path / "account.json").write_text(json.dumps({**account, "private_key_id": ""}))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    kinds = {"s3://of-a-test": S3Store, "gs://of-a-test": GCSStore, "https://of-a-test": HTTPStore}
    for root, kind in kinds.items():
        store = opened(root)
        assert isinstance(store, kind)
        assert store.retry_config is not None and store.retry_config["max_retries"] == 0
        assert SECRET not in repr(place_of(root)) + repr(pickle.dumps(place_of(root)))


def test_a_web_server_is_read_only_and_has_no_lists() -> None:
    path = place_of("https://host/a")
    assert isinstance(path, ObjectPath)
    with pytest.raises(UsageError, match=r"https://host/a cannot be written: web servers are read only"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be listed"):
        list(path.iterdir())
    with pytest.raises(UsageError, match="read only"):
        path.unlink()
    assert take_counts() == {}
