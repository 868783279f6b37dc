"""Work-pool templates: every placeholder is a field, defaults fit, and what comes out is as safe as our own workers."""

import json
from pathlib import Path

import pytest
from docker.models.containers import _create_container_args
from jsonschema import Draft202012Validator
from prefect.utilities.templating import apply_values, find_placeholders

TEMPLATES = Path(__file__).parents[2] / "deployments/work_pools"
NAMES = sorted(file.stem for file in TEMPLATES.glob("*.json"))


def template(name):
    return json.loads((TEMPLATES / f"{name}.json").read_text())


def filled(name, **values):
    """What a worker makes of the template: defaults, and over them what a deployment sets."""
    read = template(name)
    defaults = {field: each["default"] for field, each in read["variables"]["properties"].items() if "default" in each}
    return apply_values(read["job_configuration"], defaults | values)


def test_there_is_a_template_for_docker_and_one_for_kubernetes():
    assert NAMES == ["docker", "kubernetes"]


@pytest.mark.parametrize("name", NAMES)
def test_every_placeholder_is_a_field_of_the_form_and_every_field_is_used(name):
    read = template(name)
    used = {placeholder.name for placeholder in find_placeholders(json.dumps(read["job_configuration"]))}
    assert used == set(read["variables"]["properties"])


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_title_and_every_default_is_allowed(name):
    schema = template(name)["variables"]
    Draft202012Validator.check_schema(schema)
    assert [field for field, each in schema["properties"].items() if "title" not in each] == []
    defaults = {field: each["default"] for field, each in schema["properties"].items() if "default" in each}
    assert list(Draft202012Validator(schema).iter_errors(defaults)) == []


def test_a_container_gets_gpus_shared_memory_and_the_runs_and_no_privilege():
    job = filled("docker", image="tapir-student:0.1.0")
    extra = job["container_create_kwargs"]
    container = _create_container_args({"image": job["image"], "version": "1.44", "volumes": job["volumes"], **extra})
    host = container["host_config"]
    (request,) = host["DeviceRequests"]
    assert (request["Driver"], request["Count"], request["Capabilities"]) == ("nvidia", -1, [["gpu"]])
    assert host["ShmSize"] == 16 * 2**30
    assert host["Binds"] == ["tapir-runs:/data/runs", "tapir-scratch:/data/scratch"]
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])
    assert (container["user"], job["privileged"]) == ("10001:10001", False)


def test_a_container_without_gpus_asks_for_no_device():
    extra = filled("docker", gpus=[])["container_create_kwargs"]
    assert _create_container_args({"image": "any", "version": "1.44", **extra})["host_config"]["DeviceRequests"] == []


def test_a_pod_gets_gpus_shared_memory_and_the_runs_and_no_privilege():
    pod = filled("kubernetes", gpus=4, shared_memory="8Gi")["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": 4}
    assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == {
        "runs": "/data/runs",
        "scratch": "/data/scratch",
        "shared-memory": "/dev/shm",
    }
    runs, _scratch, shared_memory = pod["volumes"]
    assert runs["persistentVolumeClaim"] == {"claimName": "tapir-runs"}
    assert shared_memory["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["automountServiceAccountToken"] is False
