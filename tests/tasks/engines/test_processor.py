from pathlib import Path

import pytest

from tasks.engines import machine
from tasks.engines.machine import amx_is_broken, computes_in_bf16


@pytest.fixture
def amx(tmp_path: Path) -> Path:
    says = tmp_path / "cpuinfo"
    says.write_text("flags : avx2 avx512_bf16 amx_tile amx_bf16\n")
    return says


@pytest.fixture
def without_amx(tmp_path: Path) -> Path:
    says = tmp_path / "cpuinfo-without"
    says.write_text("flags : avx2 avx512_bf16\n")
    return says


def _python(folder: Path, does: str) -> str:
    script = folder / "python"
    script.write_text(f"#!/bin/sh\n{does}\n")
    script.chmod(0o755)
    return str(script)


def test_amx_that_ends_the_process_is_broken(tmp_path: Path, amx: Path) -> None:
    assert amx_is_broken(_python(tmp_path, "kill -ILL $$"), amx)


def test_amx_that_multiplies_is_not(tmp_path: Path, amx: Path) -> None:
    assert not amx_is_broken(_python(tmp_path, "exit 0"), amx)


def test_another_failure_is_not_taken_for_the_processors(tmp_path: Path, amx: Path) -> None:
    assert not amx_is_broken(_python(tmp_path, "exit 1"), amx)


def test_nobody_is_asked_where_the_processor_says_no_amx(tmp_path: Path, without_amx: Path) -> None:
    assert not amx_is_broken(_python(tmp_path, "kill -ILL $$"), without_amx)
    assert not amx_is_broken(_python(tmp_path, "kill -ILL $$"), tmp_path / "no-such-file")


def test_what_the_user_set_does_not_hide_a_broken_amx(
    tmp_path: Path, amx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in machine.WITHOUT_AMX.items():
        monkeypatch.setenv(name, value)
    assert amx_is_broken(_python(tmp_path, '[ -n "$ONEDNN_MAX_CPU_ISA" ] || kill -ILL $$'), amx)


def test_bf16_is_used_where_the_processor_multiplies_in_it(tmp_path: Path, amx: Path, without_amx: Path) -> None:
    widens = tmp_path / "cpuinfo-widens"
    widens.write_text("flags : fma avx2 avx512f\n")
    assert computes_in_bf16(broken_amx=False, cpuinfo=amx)
    assert computes_in_bf16(broken_amx=False, cpuinfo=without_amx)
    assert not computes_in_bf16(broken_amx=True, cpuinfo=amx)
    assert not computes_in_bf16(broken_amx=False, cpuinfo=widens)
    assert not computes_in_bf16(broken_amx=False, cpuinfo=tmp_path / "no-such-file")


def test_on_an_intel_without_amx_fp32_is_faster(tmp_path: Path, amx: Path, without_amx: Path) -> None:
    for says in (amx, without_amx):
        says.write_text(f"vendor_id : GenuineIntel\n{says.read_text()}")
    assert computes_in_bf16(broken_amx=False, cpuinfo=amx)
    assert not computes_in_bf16(broken_amx=True, cpuinfo=amx)
    assert not computes_in_bf16(broken_amx=False, cpuinfo=without_amx)
