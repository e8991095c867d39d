"""Which addresses of schedulers may be used as they are. Whoever reaches a dask scheduler runs code as its user."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from chunkflow.errors import UsageError

ENCRYPTED = ("tls", "wss")
WITHIN = ("inproc", "unix")  # do not leave the machine


def check_address(address: str, *, insecure: bool = False) -> None:
    """Refuse an address that leaves this machine without TLS, unless that was asked for.

    Raises
    ------
    UsageError : it does, or is no address.
    """
    parts = urlsplit(address)
    if not parts.scheme or not (parts.netloc or parts.path):
        raise UsageError(f"{address!r} is no address of a scheduler", "For example tls://HOST:8786")
    if insecure or parts.scheme in (*ENCRYPTED, *WITHIN) or is_loopback(parts.hostname or ""):
        return
    raise UsageError(
        f"{address} leaves this machine without encryption, and whoever reaches a dask scheduler runs code as you",
        "Start the scheduler with TLS and use tls://, or add --insecure on a network that you trust",
    )


def is_loopback(host: str) -> bool:
    """Whether a host's name or number is this machine's own, which nobody else reaches."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return False
