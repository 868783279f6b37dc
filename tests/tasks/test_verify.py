"""A verifier within the stages: where the judge is asked beside it, when it stops its stage, what is checked before."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.commands.diagnosis.checks import examine
from flows.commands.diagnosis.configuration import run_checks
from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config, missing_prerequisites
from tapir_core.config.load import load_config
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder
from tapir_core.stages import ANSWER, JUDGE, TEACH, VERIFY, plan
from tasks.input_files import gather_files, gather_ingredients
from tasks.judge import judge_shard, verify
from tasks.outcomes import Made, Piece, ShardOutcome
from tasks.runtime import close_all
from tests.doubles.provider import FakeProvider, RecordedCall, Text
from tests.run_builder import build_run
from tests.run_config import make_config

ROOT = Path(__file__).parents[2]
KEYED = {"type": "openai", "model": "m", "identity": "i", "api_key_env": "JUDGE_KEY"}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def make(folder: Path, module: str, judge: dict[str, Any] | None = None, **verifier: Any) -> RunConfig:
    (folder / "mine.py").write_text(module)
    table = {"function": "mine:score", "folder": str(folder), **verifier}
    judged = {**({"endpoint": judge} if judge else {}), "verifier": table, "reasks": 0}
    return make_config(folder, data={"pool": {"type": "standin", "rows": 40}}, judge=judged)


def judged(run: RunFolder) -> Made[Any]:
    answers = run.manifest(ANSWER.at(1))
    assert answers is not None
    done = judge_shard.fn(run.ref, JUDGE.at(1), Piece(0, 1), ShardOutcome(answers.parts[0]))
    run.seal(JUDGE.at(1), [done.rows])
    return done  # type: ignore[no-any-return]  # of a Prefect task


def test_the_judge_is_asked_about_what_the_verifier_cannot_score(tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(call: RecordedCall) -> Text:
        asked.append(call.prompt)
        return Text("Scores: [[4, 7]]")

    odd = "def score(instruction, answer, reference):\n    return None if len(instruction) % 2 else 0.25\n"
    with FakeProvider(reply) as provider:
        endpoint = {**KEYED, "api_key_env": "", "base_url": provider.base_url}
        config = make(tmp_path, odd, endpoint, uses=["judge"])
        run = build_run(tmp_path, until=ANSWER.at(1), config=config, **gather_files(config))
        counts = judged(run).counts
    verdicts = run.rows(JUDGE.at(1)).join(run.rows(ANSWER.at(1)), on="instruction_id")
    lengths = dict(run.rows(run_pool(run)).select("instruction_id", "instruction").iter_rows())
    by = {
        name: {len(lengths[each]) % 2 for each in verdicts.filter(judge=name)["instruction_id"]}
        for name in ("mine:score", "m")
    }
    assert by == {"mine:score": {0}, "m": {1}}
    scores = verdicts.filter(judge="mine:score").select("student_score", "teacher_score", "status").unique().rows()
    assert scores == [(3.25, 3.25, "scored")]
    assert counts["verified"] == verdicts.filter(judge="mine:score").height
    assert len(asked) == verdicts.filter(judge="m").height


def run_pool(run: RunFolder) -> Any:
    return next(at for at in plan(run.config) if at.name == "pool")


def test_alone_it_leaves_unscored_what_it_cannot_score_with_the_reason(tmp_path: Path) -> None:
    config = make(tmp_path, "def score(i, answer, r):\n    return None", uses=["judge"], only=True)
    run = build_run(tmp_path, until=ANSWER.at(1), config=config, **gather_files(config))
    judged(run)
    reasons = run.rows(JUDGE.at(1)).select("status", "reason", "judge").unique().rows()
    assert reasons == [("unscored", "verifier: student: none; teacher: none", "mine:score")]


@pytest.mark.parametrize(("share", "stops"), [(0.5, True), (1.0, False)])
def test_one_that_fails_on_most_answers_stops_its_stage(tmp_path: Path, share: float, stops: bool) -> None:
    config = make(tmp_path, "def score(instruction, answer, reference):\n    return answer.nothing")
    config = config.model_copy(update={"calls": config.calls.model_copy(update={"max_failed_share": share})})
    run = build_run(tmp_path, until=TEACH.at(), config=config, **gather_files(config))
    if stops:
        said = r"verify: judge\.verifier 'mine:score' failed on (\d+) of \1 answers \(error: AttributeError.*max_failed"
        with pytest.raises(ConfigError, match=said):
            verify.fn(run.ref, VERIFY.at())
    else:
        verify.fn(run.ref, VERIFY.at())
        rows = run.rows(VERIFY.at())
        assert rows["correct"].null_count() == rows.height == run.sealed(VERIFY.at()).counts["verifier_error"]


def test_what_cannot_be_imported_is_said_before_a_run_and_by_doctor(tmp_path: Path) -> None:
    config = make(tmp_path, "import no_such_package")
    said = r"'mine:score' cannot be imported: ModuleNotFoundError.*no_such_package.*judge\.verifier\.folder"
    with pytest.raises(ConfigError, match=said):
        gather_ingredients(config)
    [check] = [each for each in run_checks(config, str(tmp_path)) if each.part == "judge.verifier"]
    [found] = examine([check])
    assert (found.level, found.remedy[:10]) == ("fault", "correct it")
    assert "no_such_package" in found.found
    (tmp_path / "mine.py").write_text("score = max")
    assert [each.level for each in examine([check])] == ["ok"]


def test_a_module_is_looked_for_beside_the_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text((ROOT / "configs/test.toml").read_text())
    overrides = ["judge.verifier=mine:score"]
    lacking = "\n".join(check_config(load_config(tmp_path / "run.toml", overrides)))
    assert re.search(rf"judge\.verifier\.function.*no module 'mine' in {tmp_path}.*judge\.verifier\.folder", lacking)
    (tmp_path / "mine.py").write_text("")
    config = load_config(tmp_path / "run.toml", overrides)
    assert "judge.verifier" not in "\n".join(check_config(config))
    assert config.judge.verifier is not None
    assert config.judge.verifier.source == str(tmp_path / "mine.py")
    assert "file:verifier" in gather_files(config)


def test_alone_it_needs_no_judge_but_a_judged_benchmark_does(tmp_path: Path) -> None:
    table = 'judge={{ endpoint = {{ type = "openai", model = "m", api_key_env = "NO_KEY" }}, verifier = {} }}'
    given = ["run.root=" + str(tmp_path), 'data.heldout={ type = "standin" }']
    alone = load_config(ROOT / "configs/test.toml", [*given, table.format('{ function = "exact", only = true }')])
    beside = load_config(ROOT / "configs/test.toml", [*given, table.format('"exact"')])
    lacking = ["\n".join(missing_prerequisites(each, {})) for each in (alone, beside)]
    assert ["NO_KEY" in each for each in lacking] == [False, True]
    benchmark = 'evaluation.benchmarks.vicuna={ type = "vicuna", questions = "q", baseline = "b" }'
    asked = load_config(
        ROOT / "configs/test.toml", [*given, benchmark, table.format('{ function = "exact", only = true }')]
    )
    assert "judge.verifier.only: true: the benchmarks vicuna have no judge" in "\n".join(check_config(asked))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"somewhere"', 'write "module:function"'),
        ('"a/b.py:score"', 'write "module:function"'),
        ('{ function = "exact", uses = ["filter"], only = true }', "only = true asks no judge"),
        ('{ function = "exact", min_score = 0 }', "min_score"),
        ("3", "judge.verifier"),
    ],
)
def test_what_is_no_verifier_is_refused(value: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(ROOT / "configs/test.toml", [f"judge.verifier={value}"])
    assert said in str(caught.value)
