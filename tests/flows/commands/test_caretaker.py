"""Which workers `tapir up` keeps."""

import pytest

from flows.commands.caretaker import Post, staff
from tapir_core.errors import ConfigError
from tasks.engines.machine import GPUS_VARIABLE


def test_one_worker_of_a_pool_sees_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, "0,1,2,3")
    assert staff(1) == [Post("tapir-cpu"), Post("tapir-gpu")]


def test_several_share_the_gpus_and_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, "0,1,2,3")
    posts = staff(2)
    assert [post.gpus for post in posts] == [(), ("0", "1"), ("2", "3")]
    assert [post.label for post in posts] == ["tapir-cpu", "tapir-gpu", "tapir-gpu-2"]
    assert len({post.name for post in posts}) == 3


def test_a_machine_without_gpus_may_have_several_and_one_with_gpus_no_more_than_these(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, "")
    assert len(staff(3)) == 4
    monkeypatch.setenv(GPUS_VARIABLE, "0,1")
    with pytest.raises(ConfigError, match="--gpu-workers 3: this machine has 2 GPUs"):
        staff(3)
