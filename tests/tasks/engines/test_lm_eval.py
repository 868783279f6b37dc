"""lm-evaluation-harness itself: its task IFEval on the sample questions, a task of one's own, its own client beside."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapir_core.config import Sampling
from tapir_core.config.benchmarks import LmEvalBenchmark
from tapir_core.errors import ConfigError, EngineError, MissingPrerequisite, Stopped
from tapir_core.evaluation.marking import Answered, LmEval
from tasks.engines.supervisor import ScriptRunner
from tests.doubles.lm_eval import make_fake_harness
from tests.doubles.provider import FakeProvider, RecordedCall, Text
from tests.harness.processes import REPOSITORY
from tests.students import needs_harness

SAMPLES = REPOSITORY / "configs" / "benchmarks"
PYTHON = REPOSITORY / ".venv-lm-eval" / "bin" / "python"

GOOD = {
    1: "Fog lies on the water and gulls cry over the boats.",
    2: "* Boil water.\n* Warm the pot.\n* Add the leaves.\n* Wait and pour.",
    3: "Our cat is lost. She wears a red collar. There is a reward.",
    4: "It is a house where anyone may read and borrow what others wrote.",
    6: "It carries people over water.",
    7: '[{"name": "Ada", "age": 7}, {"name": "Ben", "age": 9}]',
    10: "Thank you for the scarf.\n\nP.S. It fits.",
    15: "My answer is no.",
}
"""Answers that follow every instruction of a sample question, by its `key`."""


def harness(folder: Path, check_stop: Callable[[], None] = lambda: None, **settings: Any) -> LmEval:
    whole = {"questions": str(SAMPLES / "ifeval.jsonl"), "task": "ifeval", "python": str(PYTHON), **settings}
    return LmEval(LmEvalBenchmark(**whole), "mine", scripts=ScriptRunner(lambda log: folder / f"{log}.log", check_stop))


def questions(mine: LmEval) -> list[tuple[str, str, str]]:
    """Question, prompt and target of everything that the task asks."""
    return mine.items().select("question_id", "question", "reference").rows()


def answers_to(asked: list[tuple[str, str, str]], given: dict[int, str]) -> list[Answered]:
    """Each question with its answer, by the place of the question from 1; something useless where there is none."""
    return [Answered(*each, given.get(place, "No, thanks.")) for place, each in enumerate(asked, start=1)]


@pytest.mark.slow
@pytest.mark.lm_eval
@needs_harness
def test_its_ifeval_marks_the_sample_questions(tmp_path: Path) -> None:
    mine = harness(tmp_path)
    asked = questions(mine)
    prompts = [json.loads(line)["prompt"] for line in (SAMPLES / "ifeval.jsonl").read_text().splitlines()]
    assert [prompt for _, prompt, _ in asked] == prompts
    marked = mine.mark(answers_to(asked, GOOD)[1:])
    assert list(marked.values) == [
        f"{level}_level_{how}_acc" for how in ("strict", "loose") for level in ("prompt", "inst")
    ]
    strict = dict(marked.values["prompt_level_strict_acc"])
    assert "0" not in strict, "a question without an answer is not marked"
    assert {place for place in GOOD if place > 1 and strict[str(place - 1)] == [1.0]} == GOOD.keys() - {1}
    assert strict["4"] == [0.0], "three words are not sixty"
    # Without commas, but too short and without soup.
    assert dict(marked.values["inst_level_strict_acc"])["18"] == [0.0, 0.0, 0.0]
    assert (marked.marker, marked.rules) == ("lm-evaluation-harness 0.4.13", "ifeval 4.0")
    assert marked.left_out == ()


@pytest.mark.slow
@pytest.mark.lm_eval
@needs_harness
def test_a_task_of_ones_own_is_asked_with_its_stops_and_filters(tmp_path: Path) -> None:
    folder = SAMPLES / "lm_eval_tasks"
    mine = harness(tmp_path, task="tapir_sums", questions=str(SAMPLES / "sums.jsonl"), include_path=str(folder))
    asked = questions(mine)
    assert asked[0] == ("0", "What is 17 + 25? Answer with the number alone.", "42")
    marked = mine.mark(answers_to(asked, {1: "17 + 25 = 42", 2: "56\n\nOr 57?", 3: "84 or 85", 4: "twelve"}))
    [(metric, marks)] = marked.values.items()
    assert metric == "exact_match (last-number)"
    assert [share for _, [share] in marks] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert marked.rules == "tapir_sums 1.0 (its own sampling: temperature 0, 32 tokens)"


@pytest.mark.slow
@pytest.mark.lm_eval
@needs_harness
def test_a_task_with_solved_examples_draws_the_same_ones_when_it_marks(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.jsonl" for name in ("questions", "examples")}
    for first, file in zip((90, 1), files.values(), strict=True):
        rows = ({"question": f"What follows {n}?", "answer": f"#### {n + 1}"} for n in range(first, first + 8))
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = harness(tmp_path, task="gsm8k", **{name: str(file) for name, file in files.items()})
    asked = questions(mine)
    for place, (_, prompt, _) in enumerate(asked):
        assert prompt.count("Question: What follows") == 6
        assert prompt.endswith(f"Question: What follows {90 + place}?\nAnswer:")
    marked = mine.mark(answers_to(asked, {1: "#### 91\n\nQuestion: Well? #### 7", 2: "It is 92."}))
    strict, flexible = ([share for _, [share] in marks] for marks in marked.values.values())
    assert list(marked.values) == ["exact_match (strict-match)", "exact_match (flexible-extract)"]
    assert (strict, flexible) == ([1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0])


@pytest.mark.slow
@pytest.mark.lm_eval
@needs_harness
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "mmlu"}, "no such task"),
        ({"task": "choices"}, "its output_type is multiple_choice, which a chat does not give"),
        (
            {"task": "gsm8k", "questions": str(SAMPLES / "sums.jsonl")},
            "5 solved examples .* give their file as `examples`",
        ),
    ],
    ids=["group", "log-likelihoods", "examples"],
)
def test_what_cannot_be_asked_in_a_chat_is_refused(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    choices = {"task": "choices", "output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_target": 0}
    (tmp_path / "choices.yaml").write_text(json.dumps({**choices, "doc_to_choice": ["yes", "no"]}))
    with pytest.raises(ConfigError, match=f"benchmarks.mine: task '{settings['task']}': .*{said}"):
        questions(harness(tmp_path, include_path=str(tmp_path), **settings))


@pytest.mark.slow
@pytest.mark.lm_eval
@needs_harness
def test_figures_are_those_of_the_harness_with_a_client_of_its_own(tmp_path: Path) -> None:
    mine = harness(tmp_path)
    asked = questions(mine)
    given = {each.question: each.response for each in answers_to(asked, GOOD)}

    def answer(call: RecordedCall) -> Text:
        return Text(given[call.prompt])

    (tmp_path / "tasks").mkdir()
    theirs = {"include": "ifeval.yaml", "task": "theirs", "dataset_path": "json"}
    theirs["dataset_kwargs"] = {"data_files": {"train": str(SAMPLES / "ifeval.jsonl")}}  # type: ignore[assignment]  # YAML
    [shipped] = (REPOSITORY / ".venv-lm-eval").glob("lib/*/site-packages/lm_eval/tasks/ifeval/ifeval.yaml")
    theirs["include"] = str(shipped)
    (tmp_path / "tasks" / "theirs.yaml").write_text(json.dumps(theirs))
    with FakeProvider(answer) as student:
        command = [str(PYTHON), "-m", "lm_eval", "run", "--model", "local-chat-completions", "--apply_chat_template"]
        command += ["--model_args", f"base_url={student.base_url}/chat/completions,model=m,num_concurrent=4"]
        command += ["--tasks", "theirs", "--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path)]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hub")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    [file] = tmp_path.rglob("results_*.json")
    figures = json.loads(file.read_text())["results"]["theirs"]
    for metric, marks in mine.mark(answers_to(asked, GOOD)).values.items():
        shares = [share for _, each in marks for share in each]
        assert sum(shares) / len(shares) == pytest.approx(figures[f"{metric},none"], abs=1e-12)


@pytest.mark.parametrize(("longest", "told"), [(64, ""), (32, "temperature 0, 64 tokens")])
def test_a_task_that_would_draw_answers_in_another_way_says_so(tmp_path: Path, longest: int, told: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"prompt": "Well?", "answer": "Yes."}\n')
    python, drawn = str(make_fake_harness(tmp_path)), Sampling(max_tokens=longest)
    marked = harness(tmp_path, python=python, questions=str(file), answering=drawn).mark(
        [Answered("0", "Well?", None, "Yes.")]
    )
    assert marked.rules == "ifeval 1.0" + (f" (its own sampling: {told})" if told else "")


def test_a_child_that_is_told_to_stop_is_ended(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 600\n")
    python.chmod(0o755)

    def stop() -> None:
        raise Stopped("enough")

    with pytest.raises(Stopped):
        questions(harness(tmp_path, stop, python=str(python)))


def test_an_interpreter_without_the_harness_names_the_remedy(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'lm_eval'\" >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(MissingPrerequisite, match="has no lm-evaluation-harness; run `make lm-eval-env`"):
        questions(harness(tmp_path, python=str(python)))


def test_a_task_without_shares_has_nothing_to_report(tmp_path: Path) -> None:
    python = tmp_path / "python"
    said = {"harness": "0", "task_version": "1", "sampling": {"temperature": None, "max_tokens": None}}
    made = json.dumps({**said, "metrics": [], "left_out": ["bleu"]})
    python.write_text(f"#!/bin/sh\necho '{made}' > \"$4\"\n")
    python.chmod(0o755)
    with pytest.raises(ConfigError, match=r"no metric is a mean of marks between 0 and 1 \(it has bleu\)"):
        harness(tmp_path, python=str(python)).mark([Answered("0", "Well?", None, "Yes.")])


def test_a_file_with_broken_rows_names_them(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"prompt": "Well?", "answer": "Yes."}\n{"prompt"\n')
    with pytest.raises(ConfigError, match=r"benchmarks.mine.questions: .*row 2: damaged JSON"):
        questions(harness(tmp_path, python=str(make_fake_harness(tmp_path)), questions=str(file)))


def test_a_child_that_ends_without_a_result_shows_its_last_lines(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"prompt": "Well?", "answer": "Yes."}\n')
    python = str(make_fake_harness(tmp_path))
    with pytest.raises(EngineError, match=r"task 'broken': .*exit code 1; the last lines of .*\n.*\n.*KeyError"):
        questions(harness(tmp_path, python=python, questions=str(file), task="broken"))


def test_data_of_nltk_that_is_not_there_is_named_with_its_remedy(tmp_path: Path) -> None:
    python = tmp_path / "python"
    said = "Traceback:\nLookupError: \n*****\n  Resource punkt_tab not found.\n  >>> nltk.download('punkt_tab')\n"
    python.write_text(f'#!/bin/sh\ncat >&2 <<"END"\n{said}END\nexit 1\n')
    python.chmod(0o755)
    with pytest.raises(MissingPrerequisite, match=r"nltk that is not here \(punkt_tab\); run .* NLTK_DATA"):
        questions(harness(tmp_path, python=str(python)))
