"""On PYTHONPATH, this cuts a Python process off the network: whatever tries to connect fails, and says so."""

import socket


class _Cut(socket.socket):
    def connect(self, address: object) -> None:
        raise OSError(f"the network is cut, and something wants {address}")

    connect_ex = connect  # type: ignore[assignment]


socket.socket = _Cut  # type: ignore[misc]
