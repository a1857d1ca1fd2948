"""Which pages may speak to this server, for HTTP, WebSocket and gRPC-Web alike.

1. A page of another origin gets 403, because neither a WebSocket nor a simple request is held back by CORS.
2. Nor may a page whose own name is made to lead to this machine (DNS rebinding): a server that listens on loopback
   answers to names of this machine only.
"""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from proto.errors import ChatError


class Access:
    """The server's own pages may, and those of the origins that the operator allows."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self.loopback = False  # whether this machine only can reach the server
        self._any = "*" in allowed
        self._allowed = {origin.rstrip("/").lower() for origin in allowed}
        self._names = {urlsplit(origin).hostname for origin in allowed}
        self._last = ""  # host that was let in

    def check_host(self, host: str) -> None:
        """ChatError `forbidden` for a name that may be anybody's."""
        if host == self._last or not self.loopback or self._any:
            return
        name = _name(host)
        if "." in name and not name.endswith(".localhost") and not _is_address(name) and name not in self._names:
            raise ChatError(
                "forbidden",
                f"This server is for its own machine only, which is not known as {name[:200]}. Its operator can allow "
                f"that: --allow-origin https://{name[:200]}",
            )
        self._last = host

    def check(self, headers: Mapping[str, str]) -> str | None:
        """The foreign origin that is allowed, None if there is none; ChatError `forbidden` for all others."""
        origin = headers.get("Origin")
        if origin is None or _authority(origin) == headers.get("Host", "").lower() != "":
            return None
        if self._any or origin.lower() in self._allowed:
            return origin
        if not _authority(origin):  # `null`, which is said by pages from anywhere
            raise ChatError(
                "forbidden",
                "Pages without an origin of their own, like files, may not use this server. Its operator can only "
                "allow all pages: --allow-origin '*'",
            )
        raise ChatError(
            "forbidden",
            f"Pages of this origin may not use this server. Its operator can allow it: --allow-origin {origin[:200]}",
        )


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
