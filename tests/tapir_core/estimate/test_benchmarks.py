"""What benchmarks of each round add to an estimate, by their files alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapir_core.calls import Answer, AnswerStore, Message, Request, Spend, store_url
from tapir_core.calls.wire import Reply
from tapir_core.config import RunConfig, Sampling
from tapir_core.errors import ConfigError
from tapir_core.estimate.evidence import measure_benchmarks
from tapir_core.estimate.run import Estimate, Figures, estimate_run
from tapir_core.estimate.workload import Asks
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tests.benchmark_runs import ALPACA, MT_BENCH, VICUNA
from tests.run_config import make_config

PROMPTS = {name: load_prompt(name) for name in PROMPT_NAMES}
STUDENTS = 4
"""Backbone, S_0 and two rounds."""


def judge(usd: float | None = 1.0) -> dict[str, Any]:
    prices = {"usd_per_million_prompt_tokens": usd, "usd_per_million_completion_tokens": usd}
    endpoint = {"type": "openai", "base_url": "https://llm.example.com/v1", "model": "a-judge", "identity": "i"}
    return endpoint | ({} if usd is None else prices)


def configured(root: Path | str = "runs", *each_round: str, **benchmarks: dict[str, Any]) -> RunConfig:
    asked = each_round or tuple(benchmarks)
    evaluation = {"benchmarks": benchmarks, "each_round": asked, "decontamination": {"max_rouge_l": 1.0}}
    return make_config(root, evaluation=evaluation)


def sized(**settings: Any) -> Asks:
    return measure_benchmarks(configured(mine=settings), PROMPTS)["mine"]


def estimated(config: RunConfig) -> Estimate:
    return estimate_run(config, source="a test", sample=20)


def stage(found: Estimate, name: str) -> Figures:
    [figures] = [each for each in found.stages if each.name == name]
    return figures


@pytest.mark.parametrize(
    ("settings", "answers", "judgments"),
    [
        (ALPACA, 20, 20),
        (MT_BENCH, 40, 40),
        (VICUNA, 20, 20 * 2),
        (VICUNA | {"orders": "baseline_first"}, 20, 20),
    ],
)
def test_every_turn_and_every_judgment_of_the_files_counts(
    settings: dict[str, Any], answers: int, judgments: int
) -> None:
    found = sized(**settings)
    assert (found["answer"].calls, found["benchmark"].calls) == (answers, judgments)


def test_a_second_turn_is_asked_and_judged_with_the_answer_to_the_first() -> None:
    found = sized(**MT_BENCH)
    assert [found[role].shows["answer"] for role in ("answer", "benchmark")] == [0.5, 1.5]
    assert [sized(**VICUNA)[role].shows["answer"] for role in ("answer", "benchmark")] == [0.0, 1.0]


def test_the_judges_prompt_holds_the_baselines_answers(tmp_path: Path) -> None:
    answers = [json.loads(line) for line in Path(VICUNA["baseline"]).read_text().splitlines()]
    for each in answers:
        each["choices"][0]["turns"][0] += " and so on" * 400
    longer = tmp_path / "baseline.jsonl"
    longer.write_text("".join(json.dumps(each) + "\n" for each in answers))
    before, after = sized(**VICUNA), sized(**VICUNA | {"baseline": str(longer)})
    assert after["benchmark"].tokens > before["benchmark"].tokens + 500
    assert after["answer"].tokens == before["answer"].tokens


def test_a_judge_of_its_own_is_paid_at_its_own_price_for_every_student() -> None:
    found = estimated(configured(mine=ALPACA | {"judge": judge()}))
    whole = stage(found, "benchmark_replies").paid
    assert whole.calls.likely == STUDENTS * 20
    assert whole.completion_tokens.likely == STUDENTS * 20, "the annotator may say one token"
    assert whole.usd is not None
    assert whole.usd.likely == pytest.approx((whole.prompt_tokens.likely + whole.completion_tokens.likely) / 1e6)


def test_benchmarks_are_in_stages_and_totals() -> None:
    without, found = estimated(configured("runs")), estimated(configured(mine=ALPACA | {"judge": judge()}))
    assert found.charged.paid.usd == stage(found, "benchmark_replies").paid.usd
    added = found.total.needed.calls.likely - without.total.needed.calls.likely
    assert added == pytest.approx(2 * STUDENTS * 20)
    assert not {"benchmark_answers", "benchmark_replies"} & {each.name for each in without.stages}


def test_a_judge_without_a_price_is_named_with_its_field() -> None:
    found = estimated(configured(mine=ALPACA | {"judge": judge(None)}))
    [line] = found.unknown_prices
    assert line.startswith("evaluation.benchmarks.mine.judge: ")
    assert stage(found, "benchmark_replies").paid.usd is None


def test_several_benchmarks_add_up() -> None:
    found = estimated(configured(one=ALPACA, two=VICUNA))
    assert stage(found, "benchmark_replies").needed.calls.likely == STUDENTS * (20 + 40)
    assert stage(found, "benchmark_answers").needed.calls.likely == STUDENTS * (20 + 20)


def test_a_benchmark_that_waits_for_evaluate_is_named_as_not_counted() -> None:
    found = estimated(configured("runs", "one", one=ALPACA, two=VICUNA))
    assert stage(found, "benchmark_answers").needed.calls.likely == STUDENTS * 20
    [said] = [each for each in found.assumptions if each.startswith("Not counted")]
    assert "two" in said
    assert "one" not in said.split(";")[0]


@pytest.mark.parametrize("field", ["questions", "baseline"])
def test_a_file_that_is_not_there_is_named_and_nothing_is_guessed(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"evaluation\.benchmarks\.mine\.{field}: .*no/such\.json.*no such file"):
        estimated(configured(mine=ALPACA | {field: "no/such.json"}))


def test_stored_judgments_to_the_same_prompt_tell_how_long_they_are(tmp_path: Path) -> None:
    config = configured(tmp_path, mine=VICUNA | {"judge": judge()})
    versions = [PROMPTS["vicuna"].version] * 30 + ["another"] * 30
    with AnswerStore(store_url(config)) as store:
        for number, version in enumerate(versions):
            ask = (Message("user", str(number)),)
            request = Request("benchmark", ask, "a-judge", "i", Sampling(max_tokens=1024), prompt_version=version)
            tokens = 40 if version == versions[0] else 4000
            reply = Reply(Answer("8 7", "stop", 90, tokens), spent=Spend(1, 90, tokens))
            store.put(request.key, request, reply).result(30)
    found = estimated(config)
    whole = stage(found, "benchmark_replies").needed
    assert whole.completion_tokens.likely == pytest.approx(40 * whole.calls.likely)
    assert "mine 40 (seen)" in " ".join(found.assumptions)


def test_lm_evaluation_harness_marks_without_a_call(tmp_path: Path) -> None:
    questions = tmp_path / "ifeval.jsonl"
    questions.write_text("".join(json.dumps({"key": n, "prompt": f"Write {n} words."}) + "\n" for n in range(3)))
    marked = {"type": "lm_eval", "questions": str(questions), "task": "ifeval"}
    found = estimated(configured(mine=marked))
    assert stage(found, "benchmark_answers").needed.calls.likely == STUDENTS * 3
    assert "benchmark_replies" not in {each.name for each in found.stages}
