"""On PYTHONPATH, this cuts a Python process off the network: whatever asks for it ends the process, and says so."""

import os
import socket
import sys


def _cut(*wanted: object, **_more: object) -> None:
    print(f"the network is cut, and something wants {wanted[-1] if wanted else 'it'}", file=sys.stderr, flush=True)
    os._exit(97)  # an error would be caught by what tries twice or falls back


class _Cut(socket.socket):
    connect = connect_ex = _cut  # type: ignore[assignment]


socket.socket = _Cut  # type: ignore[misc]
socket.getaddrinfo = _cut  # type: ignore[assignment]
