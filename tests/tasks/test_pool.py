"""Evaluation questions leave the pool and the expansion, are listed, and redo no more than they change."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tapir_core import sources
from tapir_core.config import FileHeldout, RunConfig
from tapir_core.errors import ConfigError, RunChanged
from tapir_core.estimate.run import estimate_run
from tapir_core.run_folder import RunFolder, open_run, stages_to_redo
from tapir_core.stages import StageAt
from tasks.input_files import gather_files
from tasks.pool import contaminated, heldout, pool, questions
from tasks.runtime import close_all
from tests.builders import mails
from tests.run_builder import build_run
from tests.run_config import make_config

POOL, CONTAMINATED, QUESTIONS = StageAt("pool"), StageAt("contaminated"), StageAt("questions")
RIVERS, POEM, SUM = "Name three rivers of Europe.", "Write a short poem about the sea in autumn.", "Add 17 and 25."


@pytest.fixture
def config(tmp_path: Path) -> Iterator[RunConfig]:
    (tmp_path / "pool.json").write_text(json.dumps([{"instruction": text} for text in (RIVERS, POEM, SUM)]))
    ask(tmp_path, "alpaca_eval", "Why is the sky blue?", RIVERS.upper())
    ask(tmp_path, "mt_bench", "Write a short poem about the sea in winter.")
    names = ("alpaca_eval", "mt_bench")
    yield make_config(
        tmp_path,
        data={"pool": {"type": "file", "path": str(tmp_path / "pool.json")}},
        evaluation={"benchmarks": {name: {"questions": str(tmp_path / f"{name}.json")} for name in names}},
    )
    close_all()


def ask(folder: Path, benchmark: str, *texts: str) -> None:
    (folder / f"{benchmark}.json").write_text(json.dumps([{"instruction": text} for text in texts]))


def work(config: RunConfig, *stages: Callable[..., object]) -> RunFolder:
    """Do these stages with the files as they are now."""
    run = open_run(config, gather_files(config), amend=True)
    for stage in stages:
        stage.fn(run.ref, StageAt(stage.name))  # type: ignore[attr-defined]  # a Prefect task
    return run


def test_what_holds_a_question_leaves_the_pool_and_is_counted_and_listed_by_benchmark(config: RunConfig) -> None:
    run = work(config, questions, contaminated, pool)
    assert run.rows(POOL)["instruction"].to_list() == [SUM]
    listed = run.rows(CONTAMINATED).select("instruction", "benchmark", "question_id", "rule").rows()
    assert sorted(listed) == [(RIVERS, "alpaca_eval", "2", "equal"), (POEM, "mt_bench", "1", "near_duplicate")]
    counts = run.manifest(CONTAMINATED).counts
    assert counts["hits: alpaca_eval"] == counts["hits: mt_bench"] == 1
    assert (counts["instructions"], counts["checked"]) == (2, 3)


@pytest.mark.parametrize(
    ("first", "stage", "edited", "named"),
    [
        ((), heldout, "heldout.json", "data.heldout"),
        ((), questions, "mt_bench.json", "evaluation.benchmarks.mt_bench.questions"),
        ((heldout, questions), contaminated, "pool.json", "data.pool"),
        ((heldout, questions, contaminated), pool, "pool.json", "data.pool"),
    ],
    ids=["heldout", "questions", "contaminated", "pool"],
)
def test_a_file_that_was_edited_since_the_run_was_opened_makes_no_rows(
    config: RunConfig, tmp_path: Path, first: Sequence[Any], stage: Any, edited: str, named: str
) -> None:
    """They would stand under the old file's key, and be used whenever that file came back."""
    given = [{"instruction": f"What is {number} and 5?", "reference": str(number + 5)} for number in range(8)]
    (tmp_path / "heldout.json").write_text(json.dumps(given))
    source = FileHeldout(path=str(tmp_path / "heldout.json"))
    config = config.model_copy(update={"data": config.data.model_copy(update={"heldout": source})})
    run = work(config, *first)
    before = (tmp_path / edited).read_bytes()
    (tmp_path / edited).write_bytes(before.replace(b"What is 1 ", b"What is 9 ").replace(b"sea in", b"lake in"))
    with pytest.raises(RunChanged, match=rf"{named}: '.*{edited}' is not the file"):
        stage.fn(run.ref, StageAt(stage.name))
    assert run.manifest(StageAt(stage.name)) is None
    (tmp_path / edited).write_bytes(before)
    stage.fn(run.ref, StageAt(stage.name))


def test_the_same_questions_redo_nothing(config: RunConfig) -> None:
    run = work(config, questions, contaminated, pool)
    assert stages_to_redo(run, config, gather_files(config)) == []
    assert all(work(config).holds(at) for at in (QUESTIONS, CONTAMINATED, POOL))


def test_other_questions_look_again_and_redo_what_follows_only_if_they_hit_others(
    config: RunConfig, tmp_path: Path
) -> None:
    work(config, questions, contaminated, pool)
    ask(tmp_path, "mt_bench", "Write a short poem about the sea in winter.", "What is a tapir?")
    assert not work(config).holds(QUESTIONS)
    run = work(config, questions)
    assert not run.holds(CONTAMINATED)
    assert work(config, contaminated).holds(POOL)
    ask(tmp_path, "mt_bench", "What is a tapir?")
    run = work(config, questions, contaminated)
    assert not run.holds(POOL)
    assert work(config, pool).rows(POOL).height == 2


def test_a_pool_of_nothing_but_questions_is_refused_with_the_place_of_the_list(
    config: RunConfig, tmp_path: Path
) -> None:
    ask(tmp_path, "alpaca_eval", RIVERS, POEM, SUM)
    with pytest.raises(ConfigError, match=r"each of its 3 instructions holds an evaluation question \(example/contam"):
        work(config, questions, contaminated, pool)


def test_a_run_that_keeps_apart_from_nothing_lists_nothing(config: RunConfig) -> None:
    alone = make_config(config.run.root, data=config.data.model_dump())
    assert work(alone, pool).rows(POOL).height == 3
    assert not work(alone).storage.exists(CONTAMINATED.folder)


def test_candidates_of_a_round_that_hold_a_question_are_listed_too(tmp_path: Path) -> None:
    accepted = build_run(tmp_path / "without", until=StageAt("expand", 1)).rows(StageAt("expand", 1))
    ask(tmp_path, "mine", *accepted["instruction"].head(3))
    asked = {"benchmarks": {"mine": {"questions": str(tmp_path / "mine.json")}}}
    config = make_config(tmp_path, evaluation=asked)
    run = build_run(tmp_path, config=config, until=StageAt("expand", 1))
    listed, built = StageAt("contaminated", 1), run.rows(StageAt("contaminated", 1))
    contaminated.fn(run.ref, StageAt("contaminated", 1))
    assert run.rows(listed).equals(built)
    assert set(accepted["instruction_id"].head(3)) <= set(built["instruction_id"])
    assert not set(built["instruction_id"]) & set(run.rows(StageAt("expand", 1))["instruction_id"])
    close_all()


def mail_config(folder: Path, texts: list[str], **evaluation: object) -> RunConfig:
    (folder / "mails.json").write_text(json.dumps([{"instruction": text, "input": "<noinput>"} for text in texts]))
    data = {"pool": {"type": "file", "path": str(folder / "mails.json")}, "heldout": {"type": "judged"}}
    return make_config(folder, data=data, evaluation=evaluation)


def test_mails_with_one_footer_are_a_pool_of_which_a_held_out_set_can_be_drawn(tmp_path: Path) -> None:
    config = mail_config(tmp_path, mails(240))
    assert work(config, pool).rows(POOL).height == 240
    assert estimate_run(config, source="it").notes == (
        'rows whose input or system text is a word for none ("<noinput>"), taken as empty: 240',
    )
    close_all()


def test_of_a_large_pool_a_part_tells_what_a_held_out_set_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_REHEARSED", 60)
    config = mail_config(tmp_path, [each for text in mails(120) for each in (text, f"{text} Thanks.")])
    [_, lost] = estimate_run(config, source="it").notes
    assert re.search(r"^\d+ of \d\d instructions leave the pool, .*\(60 of 240 were looked at\)", lost)
    close_all()


def test_a_pool_that_a_held_out_set_would_empty_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    config = mail_config(tmp_path, mails(8))
    with pytest.raises(ConfigError, match=r'the \d+ words ".*person named above.*overlap_words = \d+ where') as said:
        work(config, pool)
    with pytest.raises(ConfigError, match="person named above"):
        estimate_run(config, source="it")
    [words] = re.findall(r"overlap_words = (\d+)", str(said.value))
    close_all()
    mended = mail_config(tmp_path, mails(8), decontamination={"overlap_words": int(words)})
    assert work(mended, pool).rows(POOL).height == 8
    close_all()


def test_a_loss_of_more_than_a_tenth_is_noted(tmp_path: Path) -> None:
    texts = [text.partition(".")[0] for text in mails(20)]
    ask(tmp_path, "own", *(text.upper() for text in texts[:3]))
    config = mail_config(tmp_path, texts, benchmarks={"own": {"questions": str(tmp_path / "own.json")}})
    [*_, note] = estimate_run(config, source="it").notes
    assert note.startswith(
        "3 of 20 instructions leave the pool, since they hold an evaluation question; most are word for word a question"
    )
