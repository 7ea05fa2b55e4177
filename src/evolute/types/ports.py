"""A port of one's own, taken before anything slow is done.

listen(host, port) -> socket      bound and listening; 0 takes a free port
url_of(listener) -> str           http://HOST:PORT, by which this machine reaches it
"""

from __future__ import annotations

import errno
import socket

from evolute.types.errors import ConfigError

BACKLOG = 2048
REASONS = {
    errno.EADDRINUSE: "it is in use; choose another --port, or 0 for any free one",
    errno.EACCES: "it needs root; choose a --port above 1023",
    errno.EADDRNOTAVAIL: "this machine has no such address; use --host 127.0.0.1 or 0.0.0.0",
}


def listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError that names the fix."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port} does not exist; choose 0 (any free one) to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"host {host!r} has no address: {error}.") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = REASONS.get(error.errno or 0, str(error))
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}.") from None
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"
