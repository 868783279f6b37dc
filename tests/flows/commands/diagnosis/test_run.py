"""What a configuration needs: each fault with its remedy, and no token is paid for."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.commands.diagnosis.checks import Finding, examine
from flows.commands.diagnosis.configuration import read_run, run_checks
from tapir_core.config import RunConfig
from tapir_core.errors import MissingPrerequisite
from tests.builders import mails
from tests.doubles.lm_eval import make_fake_harness
from tests.doubles.provider import FakeProvider, Status
from tests.run_config import make_config
from tests.students import make_checkpoint

KEY = "sk-quite-secret-0123456789"


def look(config: RunConfig, root: Path, part: str) -> Finding:
    (found,) = examine([each for each in run_checks(config, str(root)) if each.part == part])
    return found


def with_teacher(root: Path, base_url: str | list[str], **fields: Any) -> RunConfig:
    endpoint = {
        "type": "openai",
        "base_url": base_url,
        "model": "fake-model",
        "identity": "i",
        "api_key_env": "THE_KEY",
    }
    return make_config(root, teacher={"endpoint": {**endpoint, **fields}})


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)


def ask(provider: FakeProvider, root: Path, **fields: Any) -> Finding:
    with provider:
        found = look(with_teacher(root, provider.base_url, **fields), root, "teacher.endpoint")
    assert provider.calls == [], "no token is paid for"
    assert KEY not in str(found)
    return found


@pytest.mark.parametrize(
    ("rows", "level", "found"),
    [
        (
            [{"instruction": f"Name {number} rivers.", "input": "No input"} for number in range(240)],
            "ok",
            "as empty: 240",
        ),
        ([{"instruction": text} for text in mails(240)], "ok", '240 instructions, the first begins "Order'),
        (
            [
                {
                    "messages": [
                        {"role": role, "content": f"{said} {number}."}
                        for role, said in (("user", "Hello, this is"), ("assistant", "Hi"), ("user", "What about"))
                    ]
                }
                for number in range(240)
            ],
            "ok",
            'the first begins "Hello, this is',
        ),
        ([{"instruction": text} for text in mails(60)], "warning", "60 instructions are few: 6 of them are held out"),
        ([{"instruction": text} for text in mails(9)], "fault", "person named above"),
        ([{"question": "Name a river."}], "fault", "found 'question'"),
    ],
)
def test_the_pool_is_read_and_shown(tmp_path: Path, rows: list[dict[str, Any]], level: str, found: str) -> None:
    (tmp_path / "pool.json").write_text(json.dumps(rows))
    config = make_config(tmp_path, data={"pool": {"type": "file", "path": str(tmp_path / "pool.json")}})
    pool = look(config, tmp_path, "data.pool")
    assert pool.level == level, pool
    assert found in f"{pool.found} {pool.remedy}"


def test_an_endpoint_that_takes_the_key_and_has_the_model_is_well(tmp_path: Path) -> None:
    found = ask(FakeProvider(api_key=KEY), tmp_path)
    assert found.level == "ok"
    assert "key is accepted, fake-model is there" in found.found


def test_an_endpoint_that_refuses_the_key_names_its_variable(tmp_path: Path) -> None:
    found = ask(FakeProvider(api_key="another"), tmp_path)
    assert found.level == "fault"
    assert "refuses the key" in found.found
    assert "THE_KEY" in found.remedy


def test_a_key_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THE_KEY")
    found = ask(FakeProvider(), tmp_path)
    assert found.level == "fault"
    assert "export THE_KEY" in found.remedy


@pytest.mark.parametrize(("ends", "level"), [("2027-01-14", "warning"), (None, "ok")])
def test_a_model_with_an_announced_end_is_a_warning_that_names_the_day(
    tmp_path: Path, ends: str | None, level: str
) -> None:
    listed = {"data": [{"id": "fake-model", "object": "model", "shutdown_date": ends}]}
    found = ask(FakeProvider(models=Status(200, listed)), tmp_path)
    assert found.level == level
    assert ("is there until 2027-01-14" in found.found) == (ends is not None)


def test_a_model_that_is_not_listed_is_a_warning_with_the_nearest_names(tmp_path: Path) -> None:
    found = ask(FakeProvider(models=["fake-model-2", "other"]), tmp_path)
    assert found.level == "warning"
    assert "'fake-model'" in found.found
    assert "fake-model-2" in found.found


@pytest.mark.parametrize(
    ("reply", "word"),
    [(Status(404), "judge-check"), (Status(200, "<html>"), "judge-check"), (Status(503), "wait")],
    ids=["no list", "a page", "overloaded"],
)
def test_an_endpoint_that_gives_no_list_is_a_warning(tmp_path: Path, reply: Status, word: str) -> None:
    found = ask(FakeProvider(models=reply), tmp_path)
    assert found.level == "warning"
    assert word in found.remedy


def test_the_worst_of_several_addresses_counts(tmp_path: Path) -> None:
    with socket.socket() as probe, FakeProvider() as provider:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
        config = with_teacher(tmp_path, [provider.base_url, nobody])
        found = look(config, tmp_path, "teacher.endpoint")
    assert found.level == "fault"
    assert nobody in found.found
    assert "start that server" in found.remedy


def test_a_student_on_a_server_of_others_is_asked_for_without_its_checkpoints_name(tmp_path: Path) -> None:
    with FakeProvider() as provider:
        student = {"engine": {"type": "endpoint", "base_url": provider.base_url}}
        assert look(make_config(tmp_path, student=student), tmp_path, "student.engine").level == "ok"


def test_an_unknown_price_is_a_fault_under_a_cap_on_usd_and_a_warning_without(tmp_path: Path) -> None:
    config = with_teacher(tmp_path, "https://api.openai.com/v1", model="nobody-knows-it")
    free = look(config, tmp_path, "prices")
    assert free.level == "warning"
    capped = look(RunConfig.model_validate({**config.model_dump(), "budget": {"usd": 5.0}}), tmp_path, "prices")
    assert capped.level == "fault"
    assert "nobody-knows-it" in capped.found
    for found in (free, capped):
        assert "usd_per_million_prompt_tokens" in found.remedy


def test_known_prices_are_told(tmp_path: Path) -> None:
    assert "the stand-in costs nothing" in look(make_config(tmp_path), tmp_path, "prices").found


def test_a_backbone_without_chat_template_says_where_to_put_one(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "backbone", chat_template__jinja=None)
    found = look(make_config(tmp_path, student={"backbone": str(folder)}), tmp_path, "backbone")
    assert found.level == "fault"
    assert "chat template" in found.found
    assert "student.chat_template" in found.remedy


def test_a_backbone_that_was_not_fetched_yet_is_a_warning(tmp_path: Path) -> None:
    found = look(make_config(tmp_path, student={"backbone": "nobody/no-model"}), tmp_path, "backbone")
    assert found.level == "warning"
    assert "first run" in found.remedy


@pytest.mark.parametrize(
    ("ahead", "level", "said"),
    [
        (["weights 1.00 = 2.00 GiB a process, 3.00 GiB free"], "ok", "3.00 GiB free"),
        (["…", "the training needs about 4.0 GiB; should it fail: lower it"], "warning", "needs about 4.0 GiB"),
        ([], "ok", "not told by the backbone's files"),
        (MissingPrerequisite("the training needs 9 GiB (a = 9 GiB); set [training.lora]"), "fault", "(a = 9 GiB)"),
    ],
)
def test_what_training_takes_of_memory_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: list[str] | Exception, level: str, said: str
) -> None:
    def look_ahead(*_: object) -> list[str]:
        if isinstance(ahead, Exception):
            raise ahead
        return ahead

    monkeypatch.setattr("tasks.engines.training.prerequisites.look_ahead", look_ahead)
    student = {"backbone": str(make_checkpoint(tmp_path / "backbone"))}
    found = look(make_config(tmp_path, student=student), tmp_path, "training")
    assert (found.level, said in found.found) == (level, True)
    assert found.remedy in ("", "should it fail: lower it", "set [training.lora]")
    later = look(make_config(tmp_path, student={"backbone": "nobody/no-model"}), tmp_path, "training")
    assert "once the backbone is here" in later.found
    worker = make_config(tmp_path, student=student, training={"runs_on": "worker"})
    assert "training" not in {each.part for each in run_checks(worker, str(tmp_path))}


def test_every_problem_of_a_configuration_is_a_finding(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[run]\nname = "x"\nrounds = "many"\n')
    config, found = read_run(file)
    assert config is None
    assert {each.part for each in found} == {"configuration"}
    assert {each.level for each in found} == {"fault"}
    assert any("run.rounds" in each.found for each in found)


def test_what_a_run_would_refuse_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THE_KEY")
    pool = json.dumps(str(tmp_path / "no.json"))
    endpoint = '{ type = "openai", model = "m", identity = "i", api_key_env = "THE_KEY" }'
    given = [f"data.pool={{ type = 'file', path = {pool} }}", f"judge.endpoint={endpoint}"]
    config, found = read_run("configs/test.toml", given)
    assert config is not None
    assert any("no.json" in each.found and each.remedy for each in found)
    assert any("THE_KEY" in each.found and each.remedy for each in found)


def test_the_harness_of_a_benchmark_is_told_with_its_version_or_its_remedy(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"prompt": "Well?", "answer": "Yes."}\n')

    def with_harness(python: Path) -> Finding:
        benchmark = {"type": "lm_eval", "task": "mine", "questions": str(questions), "python": str(python)}
        config = make_config(tmp_path, evaluation={"benchmarks": {"ex": benchmark}})
        return look(config, tmp_path, "evaluation.benchmarks.ex")

    found = with_harness(make_fake_harness(tmp_path))
    assert (found.level, found.found.partition(": ")[2].split(",")[0]) == ("ok", "lm-evaluation-harness 0.0-fake")
    for python, said in ((tmp_path / "nowhere", "no interpreter"), (Path(sys.executable), "no lm-evaluation-harness")):
        found = with_harness(python)
        assert found.level == "fault"
        assert said in found.found
        assert "make lm-eval-env" in found.remedy
