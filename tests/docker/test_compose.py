"""What `docker/compose.yaml` promises: one open port on this machine, no default password, health before use."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker/compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
BUILT = [name for name, service in SERVICES.items() if "build" in service]
SECRET = re.compile(r"(KEY|PASSWORD|AUTH\w*)$")


def test_the_services_of_one_machine_are_there():
    assert {"postgres", "server", "s3", "cpu-worker", "gpu-worker"} <= set(SERVICES)


def test_the_only_port_is_the_ui_on_this_machine():
    ports = [(name, port) for name, service in SERVICES.items() for port in service.get("ports", [])]
    assert [name for name, _ in ports] == ["server"]
    assert [port for _, port in ports if not port.startswith("127.0.0.1:")] == []
    assert [name for name, service in SERVICES.items() if "network_mode" in service] == []


def test_databases_and_files_are_on_a_network_that_leads_nowhere():
    assert COMPOSE["networks"]["store"]["internal"] is True
    assert (SERVICES["postgres"]["networks"], SERVICES["s3"]["networks"]) == (["store"], ["store"])


def test_every_secret_comes_from_outside_and_is_missed_with_a_message():
    secrets = [
        (name, variable, value)
        for name, service in SERVICES.items()
        for variable, value in service.get("environment", {}).items()
        if SECRET.search(variable)
    ]
    assert len(secrets) >= 10
    passed_on = re.compile(r"\$\{[A-Z0-9_]+:\?[^}]+\}")
    # A key that a run may not need is passed on as it is.
    loose = [each for each in secrets if each[2] is None or not passed_on.fullmatch(each[2])]
    assert loose == [("cpu-worker", "OPENAI_API_KEY", None)]


def test_every_variable_that_compose_reads_stands_in_the_example():
    read = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", TEXT)) | {"OPENAI_API_KEY", "PIP_INDEX_URL", "TORCH_INDEX"}
    example = (ROOT / "docker/env.example").read_text()
    assert read == set(re.findall(r"^#?([A-Z0-9_]+)=", example, re.MULTILINE))
    filled = re.findall(r"^[A-Z0-9_]+=.+$", example, re.MULTILINE)
    assert filled == []


def test_the_server_asks_for_a_password_and_for_csrf_tokens_and_takes_its_own_pages_only():
    environment = SERVICES["server"]["environment"]
    assert environment["PREFECT_SERVER_API_AUTH_STRING"].startswith("${PREFECT_AUTH:?")
    assert environment["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] == "true"
    assert "*" not in environment["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_waited_for_until_it_is_healthy_or_done(name):
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        checked = "healthcheck" in SERVICES[other] or other in BUILT
        assert wait["condition"] == ("service_completed_successfully" if other == "deploy" else "service_healthy")
        assert checked, f"{other} has no health check"


@pytest.mark.parametrize("name", BUILT)
def test_what_we_build_has_no_privilege(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged", False)
    assert "user" not in service


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_an_image_has_a_version_and_what_is_built_has_a_stage(name):
    service = SERVICES[name]
    assert re.search(r":\d+\.\d+[\w.-]*$", service["image"])
    if name in BUILT:
        target = service["build"]["target"].replace("${CPU_WORKER:-orchestrator}", "orchestrator")
        assert f" AS {target}\n" in (ROOT / "docker/Dockerfile").read_text()
        version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert service["image"].endswith(f":{version[1]}")


@pytest.mark.parametrize("cpu_worker", ["orchestrator", "student"])
def test_no_two_images_are_built_under_one_tag(cpu_worker):
    services = yaml.safe_load(TEXT.replace("${CPU_WORKER:-orchestrator}", cpu_worker))["services"]
    builds = {}
    for name in BUILT:
        builds.setdefault(services[name]["image"], []).append(services[name]["build"])
    assert {tag: found for tag, found in builds.items() if any(each != found[0] for each in found)} == {}


def test_the_gpu_worker_has_gpus_shared_memory_and_pinned_pages():
    worker = SERVICES["gpu-worker"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert worker["shm_size"].endswith("gb}")
    assert worker["ulimits"]["memlock"] == -1
