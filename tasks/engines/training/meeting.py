"""Where the ranks of one machine meet: on 127.0.0.1. The meeting point that torch makes listens on every address."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import TCPStore

__all__ = ["meeting_point"]


@contextmanager
def meeting_point() -> Iterator[None]:
    """The address at which the launcher tells all ranks to meet is served for the block, by the first of them.

    The process group itself is made by DeepSpeed, as ever.
    """
    # So torch connects in every rank and serves in none.
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    served = _serve(int(os.environ["MASTER_PORT"])) if os.environ["RANK"] == "0" else None
    yield
    del served


def _serve(port: int) -> TCPStore:
    listening = socket.create_server(("127.0.0.1", port))
    ranks = int(os.environ["WORLD_SIZE"])
    return TCPStore("127.0.0.1", port, ranks, True, wait_for_workers=False, master_listen_fd=listening.detach())
