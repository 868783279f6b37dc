"""Prefect's process worker of a pool, whose flow runs end before it: `python docker/worker.py POOL [OPTION…]`.

A worker that gets SIGTERM ends within seconds, and with it its container and what its flow runs were doing. This
process takes the signal in its place: the flow runs get it first, and time; then the worker. Further options are those
of `prefect worker start`. With a root on S3 their results go there too.
"""

import contextlib
import os
import signal
import subprocess
import sys

import psutil

from flows.prefect_server.server import results_setting, save_results_storage
from tapir_core.paths import ROOT_VARIABLE

FLOW_RUN_SECONDS = 45.0
"""Of the 60 s that compose gives a container; a training tries one more checkpoint in it."""


def main() -> None:
    """Run until the worker ends, or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool, *options = sys.argv[1:]
    command = ["python", "-m", "flows.server_away", "worker", "start"]
    command += ["--pool", pool, "--type", "process", "--with-healthcheck"]
    root = os.environ.get(ROOT_VARIABLE, "")
    save_results_storage(root)
    worker = subprocess.Popen(
        [*command, "--install-policy", "never", "--no-create-pool-if-not-found", *options],
        env=os.environ | results_setting(root),
    )
    try:
        worker.wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end(psutil.Process(worker.pid).children())
        worker.terminate()
    sys.exit(worker.wait())


def _end(flow_runs: list[psutil.Process]) -> None:
    for each in flow_runs:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.terminate()
    psutil.wait_procs(flow_runs, timeout=FLOW_RUN_SECONDS)


if __name__ == "__main__":
    main()
