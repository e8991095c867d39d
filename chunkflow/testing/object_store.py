"""An S3 server for tests, and a proxy before it that answers as stores do on a bad day.

    test --> proxy --> moto         the proxy asks `rule` about every request: let it pass, or answer 503, 403, ...

The server is moto's, in a process of its own; it keeps conditional puts, and checks no signatures.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, TypeAlias

SECRET = "c2VjcmV0LWtleS1vZi10aGUtdGVzdHM"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIATESTSOFCHUNKFLOW",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """An empty S3 server; its address. It ends with the block, or with this process."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", _SERVER], text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def make_bucket(server: str, name: str) -> None:
    """Create a bucket."""
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")).close()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, the `number`-th of all."""

    number: int
    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of a request.

    status : what is answered instead of passing it on
    delay : seconds before
    lost : pass it on, and cut the line instead of answering
    without : headers that are not passed on
    """

    status: int | None = None
    code: str = "SlowDown"
    delay: float = 0.0
    lost: bool = False
    without: tuple[str, ...] = ()


Rule: TypeAlias = Callable[[Asked], Answer]
PASS = Answer()


@dataclass(slots=True)
class Proxy:
    """A proxy that is going on. counts : requests by method, and `refused` ones"""

    address: str
    rule: Rule = lambda asked: PASS
    counts: Counter[str] = field(default_factory=Counter)
    lock: Any = field(default_factory=Lock)


@contextmanager
def proxied(server: str) -> Iterator[Proxy]:
    """A proxy before a server."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    listening.daemon_threads = True
    proxy = Proxy(f"http://127.0.0.1:{listening.server_port}")
    listening.__dict__["proxy"], listening.__dict__["target"] = proxy, server.removeprefix("http://")
    thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        proxy: Proxy = self.server.__dict__["proxy"]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with proxy.lock:
            proxy.counts["all"] += 1
            proxy.counts[self.command] += 1
            number = proxy.counts["all"]
        answer = proxy.rule(Asked(number, self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        time.sleep(answer.delay)
        if answer.status is not None:
            with proxy.lock:
                proxy.counts["refused"] += 1
            text = f"<Error><Code>{answer.code}</Code><Message>{SECRET}</Message></Error>".encode()
            self._answer(answer.status, {"Content-Type": "application/xml"}, b"" if self.command == "HEAD" else text)
            return
        self._pass_on(body, answer)

    def _pass_on(self, body: bytes, answer: Answer) -> None:
        connection = http.client.HTTPConnection(self.server.__dict__["target"], timeout=60)
        kept = {k: v for k, v in self.headers.items() if k.lower() not in {"connection", *answer.without}}
        try:
            connection.request(self.command, self.path, body, kept)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if answer.lost:
            self.close_connection = True
            self.connection.close()
            return
        self._answer(response.status, dict(response.getheaders()), content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        dropped = {"content-length", "transfer-encoding", "connection"}
        for name, value in headers.items():
            if name.lower() not in dropped:
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815 - names that http.server looks for
