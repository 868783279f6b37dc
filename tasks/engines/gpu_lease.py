"""The right to use GPUs of this machine: runs, whatever their root or their user, wait for each other here.

Each GPU is a name that the kernel lets one process have (an abstract Unix socket, bound and never listening). It is
free again when that process ends, however it ends, and nothing is left behind. Limits: Linux only; containers with a
network of their own are machines of their own; programs that are none of ours are not waited for.
"""

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tasks.engines import machine

LOOK_SECONDS = 1.0


@contextmanager
def hold_gpus(say: Callable[[str], object], check: Callable[[], object]) -> Iterator[None]:
    """Have all GPUs that this process may use for the block, once nobody else has them; nothing on a machine without.

    Args:
        say: Told which GPU is waited for.
        check: Called at each look; what it raises ends the wait.
    """
    with ExitStack() as held:
        # In one order for all: two that wait for each other's would wait forever.
        for gpu in sorted(machine.gpu_names()):
            if (name := _take(gpu)) is None:
                say(f"GPU {gpu} is in use by another run of this machine, which is waited for")
                while (name := _take(gpu)) is None:
                    check()
                    time.sleep(LOOK_SECONDS)
            held.enter_context(name)
        yield


def _take(gpu: str) -> socket.socket | None:
    """The name of a GPU; nothing while another process, or thread, has it."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0tapir-gpu-{gpu}")
    except OSError as exc:
        name.close()
        if exc.errno != errno.EADDRINUSE:
            raise
        return None
    return name
