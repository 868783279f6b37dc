"""Says by its exit code whether what a container runs is healthy: `python docker/health.py`.

Asks the page that TAPIR_HEALTH_URL names; without it the one of Prefect's worker, which knows whether it still polls.
Standard library only.
"""

import os
import sys
from urllib.request import ProxyHandler, build_opener

WORKER = "http://127.0.0.1:8080/health"
"""Where `prefect worker start --with-healthcheck` answers: 200, or 503 when it has not polled for a while."""


def main() -> None:
    """Ask, without any proxy of the environment: the page is in this container."""
    url = os.environ.get("TAPIR_HEALTH_URL", WORKER)
    try:
        build_opener(ProxyHandler({})).open(url, timeout=5).close()
    except OSError as error:
        sys.exit(f"{url}: {error}")


if __name__ == "__main__":
    main()
