"""Fills in the work-pool templates as Prefect's workers do, and checks what comes out: part of `make lint-docker`.

Runs in .venv-lint-docker, which holds the workers and Kubernetes' schemas. Asks no server, no Docker and no cluster.
"""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import kubernetes_validate
from docker.models.containers import _create_container_args
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.workers.base import BaseJobConfiguration
from prefect_docker.worker import DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

TEMPLATES = Path(__file__).parents[1] / "deployments" / "work_pools"
KUBERNETES = "1.34"
"""Version of the schemas; the template uses nothing younger than 1.23."""
DOCKER_API = "1.44"


async def check() -> None:
    """Check both templates, each with its defaults and without a GPU; the first fault is raised."""
    for values in ({}, {"gpus": [], "memory": "64g"}):
        configuration = await _filled("docker", DockerWorkerJobConfiguration, values)
        extra = configuration.container_create_kwargs or {}
        _create_container_args({"image": configuration.image, "version": DOCKER_API, **extra})
        print(f"docker.json {values}: docker-py takes it")
    for values in ({}, {"gpus": 0, "cpu_limit": "8", "node_selector": {"pool": "gpu"}}):
        configuration = await _filled("kubernetes", KubernetesWorkerJobConfiguration, values)
        manifest = configuration.job_manifest
        for field in ("parallelism", "completions"):
            # Prefect asks for them in the pod, where Kubernetes has no such fields and leaves them out.
            del manifest["spec"]["template"]["spec"][field]
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        print(f"kubernetes.json {values}: a Job of Kubernetes {KUBERNETES}")


async def _filled(name: str, model: type[BaseJobConfiguration], values: dict[str, Any]) -> Any:
    template = json.loads((TEMPLATES / f"{name}.json").read_text())
    nobody = PrefectClient("http://127.0.0.1:9/api")
    configuration = await model.from_template_and_values(template, values, client=nobody)
    configuration.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="check"))
    return configuration


if __name__ == "__main__":
    asyncio.run(check())
