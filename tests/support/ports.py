"""Free TCP ports that no outgoing connection can take between two starts of a server."""

import random
import socket

# Below the kernel's range for outgoing connections (32768...): a port stays ours while its
# server is down, unless another test asks for the same number.
_RANGE = (20_000, 32_000)
_pick = random.SystemRandom()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nothing listens on now."""
    for _ in range(200):
        port = _pick.randrange(*_RANGE)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        return port
    raise RuntimeError(f"no free port between {_RANGE[0]} and {_RANGE[1]}")
