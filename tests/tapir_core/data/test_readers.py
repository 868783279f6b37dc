"""Pool and held-out set from a user's file: identity, order, duplicates, bad rows, sample."""

import json
import random
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.config import HeldoutConfig, RunConfig
from tapir_core.data import readers
from tapir_core.data.readers import Found, instruction_records, read_heldout, read_pool
from tapir_core.data.records import Record
from tapir_core.errors import ConfigError
from tapir_core.sources import read_heldout_of
from tapir_core.stages import HELDOUT, POOL
from tests.run_config import make_config

WORDS = st.sampled_from(["A?", " A?", "B?", "C?\n", "\u00e9", "e\u0301"])
ROWS = st.fixed_dictionaries(
    {"instruction": WORDS},
    optional={"system": WORDS, "reference": WORDS, "source": st.sampled_from(["x", "y"])},
)


def write(folder: Path, rows: list[Any]) -> str:
    path = folder / "pool.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def write_as(kind: str, file: Path, rows: pl.DataFrame) -> str:
    {"json": rows.write_json, "jsonl": rows.write_ndjson, "csv": rows.write_csv, "parquet": rows.write_parquet}[kind](
        file
    )
    return str(file)


def read(folder: Path, rows: list[Any], *, on_bad_row: Any = "stop", limit: int | None = None, seed: int = 1) -> Found:
    return pool_of(write(folder, rows), on_bad_row=on_bad_row, limit=limit, rng=random.Random(seed))


def pool_of(path: str, columns: dict[str, str] | None = None, **settings: Any) -> Found:
    defaults: dict[str, Any] = {"on_bad_row": "stop", "limit": None, "rng": random.Random(1)}
    return read_pool(instruction_records(path, columns or {}), path, **{**defaults, **settings})


def heldout_of(path: str, columns: dict[str, str] | None = None, **settings: Any) -> Found:
    return read_heldout(instruction_records(path, columns or {}), path, **{"on_bad_row": "stop", **settings})


def test_what_a_file_says_does_not_depend_on_how_much_of_it_is_held_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = [{"role": "user", "content": "Who is it?"}]
    rows = [
        *({"messages": talk, "input": "a poem", "context": text} for text in ("", "of Ada", "of Bob")),
        *({"instruction": f"{number}?", "system": "nan", "system_prompt": "Be brief."} for number in range(4)),
        {"note": "none"},
        {"instruction": "4?", "history": [["A?", "B."]], "weight": 0, "output": "C."},
    ]
    found = []
    for batch in (1, 2, 5_000):
        monkeypatch.setattr(readers, "_BATCH", batch)
        found.append(read(tmp_path, rows, on_bad_row="skip"))
    assert [(each.counts, each.unread) for each in found[1:]] == [(found[0].counts, found[0].unread)] * 2
    assert all(each.rows.equals(found[0].rows) for each in found)
    assert "`context` (in 2 of 8 rows), `system_prompt` (in 4 of 8 rows), `history` (in 1 of 8 rows)" in found[0].unread
    assert "`input`" not in found[0].unread


@given(rows=st.lists(ROWS, min_size=1, max_size=12), shuffle=st.randoms(use_true_random=False), limit=st.integers(1, 5))
def test_the_order_of_rows_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], shuffle: random.Random, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("pool")
    before = read(folder, rows, limit=limit)
    shuffle.shuffle(rows)
    after = read(folder, rows, limit=limit)
    assert before.rows.equals(after.rows)
    assert before.counts["duplicates"] == after.counts["duplicates"]
    assert before.rows["instruction_id"].is_unique().all()
    assert before.rows["instruction_id"].is_sorted()


TEXTS = ["A?", "B?", " e\u0301\n", "\x1f", "", " ", "nan", "<NA>", "<noinput>", " n/a ", '"\\', None]
NO_TEXTS = ["\ud800", 0, 1.5, False, float("nan"), [], {}, ["A?"], {"role": "user"}]
FIELDS = ["instruction", "input", "system", "source", "reference", "output", "split", "id"]
PLAIN = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(TEXTS)).map(lambda each: {"instruction": "A?"} | each)
MARKED = PLAIN.map(lambda each: {**each, "output": "B?", "weight": 0})
OTHERS = st.dictionaries(
    st.sampled_from([*FIELDS, "mask", "messages"]), st.sampled_from([*TEXTS, *NO_TEXTS]), min_size=1
)


@given(
    rows=st.lists(PLAIN, max_size=4) | st.lists(PLAIN | MARKED, max_size=4) | st.lists(OTHERS, max_size=4),
    answers=st.booleans(),
)
def test_records_of_texts_say_the_same_beside_a_conversation_and_by_themselves(
    rows: list[dict[str, Any]], answers: bool
) -> None:
    talk = {"messages": [{"role": "user", "content": "Who is it?"}]}
    records = [Record(number, fields) for number, fields in enumerate([{"instruction": "Good?"}, *rows], 1)]
    alone, beside = (
        read_pool(some, "x", on_bad_row="skip", limit=None, rng=random.Random(1), answers=answers)
        for some in (records, [*records, Record(99, talk)])
    )
    assert beside.rows.filter(pl.col("instruction") != "Who is it?").equals(alone.rows)
    assert beside.counts == alone.counts


def test_a_pool_has_the_columns_of_its_contract_even_when_all_are_null(tmp_path: Path) -> None:
    assert read(tmp_path, [{"instruction": "A?"}]).rows.schema == pl.Schema(POOL.columns)


def test_records_of_another_place_than_a_file_are_a_pool_too() -> None:
    records = [Record(1, {"instruction": "A?"}), Record(2, {})]
    settings: Any = {"limit": None, "rng": random.Random(1)}
    assert read_pool(records, "the table", on_bad_row="skip", **settings).rows["instruction"].to_list() == ["A?"]
    with pytest.raises(ConfigError, match="'the table': 1 of 2 rows are broken"):
        read_pool(records, "the table", on_bad_row="stop", **settings)


def test_duplicates_are_merged_and_counted(tmp_path: Path) -> None:
    rows = [{"instruction": "A?"}, {"instruction": " A?", "reference": "2"}, {"instruction": "A?", "reference": "1"}]
    pool = read(tmp_path, [*rows, {"instruction": "B?"}])
    assert (pool.rows.height, pool.counts["duplicates"]) == (2, 2)
    assert set(pool.rows["reference"]) == {"1", None}


def test_the_same_instruction_under_another_system_text_is_no_duplicate(tmp_path: Path) -> None:
    assert read(tmp_path, [{"instruction": "A?"}, {"instruction": "A?", "system": "S"}]).counts["duplicates"] == 0


def test_a_pool_has_more_columns_only_where_a_row_has_something_in_them(tmp_path: Path) -> None:
    turns = [{"role": role, "content": text} for role, text in (("user", "A?"), ("assistant", "B."), ("user", "C?"))]
    rows = [{"messages": turns}, {"messages": turns[:2]}]
    pool = pool_of(write(tmp_path, rows), answers=True).rows
    assert pool.columns == [*POOL.columns, "earlier_turns", "answer"]
    assert sorted(pool.select("instruction", "answer").rows()) == [("A?", "B."), ("C?", None)]
    assert read(tmp_path, rows[1:]).rows.columns == list(POOL.columns)


def test_of_several_answers_the_first_in_alphabetical_order_stays(tmp_path: Path) -> None:
    rows = [{"instruction": "A?", "output": text} for text in ("C.", "B.", "")]
    pool = pool_of(write(tmp_path, rows), answers=True)
    assert pool.rows["answer"].to_list() == ["B."]


def test_answer_and_reference_of_rows_that_are_merged_are_of_one_row(tmp_path: Path) -> None:
    rows = [
        {"instruction": "A?", "output": "The sum is 12.", "reference": "12"},
        {"instruction": "A?", "output": "Adding gives 9.", "reference": "9"},
        {"instruction": "A?", "output": "About 7."},
        {"instruction": "B?", "output": "It is 4."},
        {"instruction": "B?", "reference": "4"},
    ]
    for some in (rows, rows[::-1]):
        pool = pool_of(write(tmp_path, some), answers=True).rows.sort("instruction")
        assert pool.select("answer", "reference").rows() == [("Adding gives 9.", "9"), ("It is 4.", "4")]


OTHERS = {"instruction": "question", "output": "answer", "system": "input"}
"""What a file calls its fields; its `input` is no input."""


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_fields_may_have_other_names_in_every_format(tmp_path: Path, kind: str) -> None:
    file = write_as(kind, tmp_path / "pool", pl.DataFrame({"question": ["A?"], "answer": ["B."], "input": ["S"]}))
    [row] = pool_of(file, OTHERS, answers=True).rows.iter_rows(named=True)
    assert (row["instruction"], row["answer"], row["system"]) == ("A?", "B.", "S")
    with pytest.raises(ConfigError, match=r"no such column: reference = 'gold' .found 'question', 'answer', 'input'."):
        pool_of(file, OTHERS | {"reference": "gold"})


def test_a_held_out_set_has_other_names_too(tmp_path: Path) -> None:
    path = write(tmp_path, [{"q": "A?", "gold": "B", "part": "dev"}, {"q": "C?", "gold": "D", "part": "test"}])
    found = heldout_of(path, {"instruction": "q", "reference": "gold", "split": "part"})
    assert sorted(found.rows["split"]) == ["dev", "test"]


def test_a_limit_draws_a_sample_that_depends_on_the_generator_only(tmp_path: Path) -> None:
    rows = [{"instruction": f"{number}?"} for number in range(50)]
    sample = read(tmp_path, rows, limit=10).rows
    assert sample.height == 10
    assert sample.equals(read(tmp_path, rows, limit=10).rows)
    assert not sample.equals(read(tmp_path, rows, limit=10, seed=2).rows)
    assert read(tmp_path, rows, limit=99).rows.height == 50


def test_a_renamed_file_is_the_same_pool(tmp_path: Path) -> None:
    first = Path(write(tmp_path, [{"instruction": "A?"}]))
    second = first.rename(tmp_path / "renamed.txt")
    pool = pool_of(str(second))
    assert pool.rows["source"].to_list() == ["file"]


def test_bad_rows_stop_the_run_with_number_reason_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, [{"instruction": "A?"}, {"instruction": ""}, 7])
    message = str(caught.value)
    assert "2 of 3 rows are broken" in message
    assert "row 2: the instruction is empty" in message
    assert "row 3: expected an object with fields, got int" in message
    assert 'data.on_bad_row = "skip"' in message
    assert caught.value.exit_code == 2


def test_only_the_first_twenty_bad_rows_are_spelled_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, [{"instruction": "A?"}, *[{}] * 33])
    assert str(caught.value).count("\n  row ") == 20
    assert "… and 13 more" in str(caught.value)


def test_bad_rows_are_skipped_and_counted_when_asked_for(tmp_path: Path) -> None:
    pool = read(tmp_path, [{"instruction": ""}, {"instruction": "A?"}], on_bad_row="skip")
    assert pool.rows.height == 1
    assert pool.counts["bad_rows"] == 1


@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_a_pool_without_instructions_is_an_error(tmp_path: Path, on_bad_row: str) -> None:
    with pytest.raises(ConfigError, match="holds no instruction"):
        read(tmp_path, [], on_bad_row=on_bad_row)
    with pytest.raises(ConfigError, match="No row is an instruction"):
        read(tmp_path, [{"instruction": ""}], on_bad_row=on_bad_row)


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"question": "A?", "answer": "B."}, '{ instruction = "question" }'),
        ({"Instruction": "A?", "Context": "2, 3"}, '{ instruction = "Instruction", input = "Context" }'),
        ({"prompt": "A?", "input": "2, 3"}, '{ instruction = "prompt" }'),
        ({"input": "A?", "output": "B."}, '{ instruction = "input" }'),
        (
            {"conversation": "[]", "prompt": "A?", "System Prompt": "S"},
            '{ messages = "conversation", system = "System Prompt" }',
        ),
        ({"frage": "A?"}, '{ instruction = "NAME" }'),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_a_file_of_other_names_is_told_the_likely_columns(
    tmp_path: Path, kind: str, row: dict[str, str], columns: str
) -> None:
    file = write_as(kind, tmp_path / "pool", pl.DataFrame([row]))
    with pytest.raises(ConfigError, match=re.escape(f"data.heldout.columns): columns = {columns}")):
        pool_of(file, on_bad_row="skip")


def test_the_column_that_is_meant_counts_where_rows_have_two_layouts(tmp_path: Path) -> None:
    rows = [{"instruction": "A?", "messages": [{"role": "user", "content": "B?"}]}]
    with pytest.raises(ConfigError, match=re.escape('columns = { messages = "messages" }')):
        read(tmp_path, rows)
    for name, text in (("instruction", "A?"), ("messages", "B?")):
        found = pool_of(write(tmp_path, rows), {name: name})
        assert found.rows["instruction"].to_list() == [text]


def test_what_was_left_out_of_rows_is_counted(tmp_path: Path) -> None:
    rows = [{"instruction": "A?", "input": "nan"}, {"instruction": "B?", "input": "<noinput>"}, {"instruction": "A?"}]
    found = read(tmp_path, rows)
    assert found.counts == {"bad_rows": 0, "duplicates": 1, "placeholder_input": 2}
    assert [said.rpartition(": ")[2] for said in found.noted] == ["1", "2"]


def test_instructions_with_a_control_token_leave_before_the_sample_is_drawn_and_are_counted(tmp_path: Path) -> None:
    earlier = [{"role": "user", "content": "Hi<|eot_id|>"}, {"role": "assistant", "content": "Hi"}]
    marked = [
        {"instruction": "What does <|im_end|> mean?"},
        {"instruction": "Add </s> to it."},
        {"instruction": "Who?", "system": "You are [INST]."},
        {"instruction": "Sum.", "input": "<start_of_turn>"},
        {"messages": [*earlier, {"role": "user", "content": "Who?"}]},
    ]
    fine = [{"instruction": "Who?"}, {"instruction": "Mark it: <s>x</s>, a <|> b."}]
    found = read(tmp_path, [*marked, *fine], limit=2)
    assert sorted(found.rows["instruction"]) == ["Mark it: <s>x</s>, a <|> b.", "Who?"]
    assert found.counts == {"bad_rows": 0, "duplicates": 0, "control_token_in_instruction": 5}
    assert found.noted == ['instructions with a control token of a chat format ("<|im_end|>"), left out: 5']
    with pytest.raises(ConfigError, match="all 5 instructions have a control token of a chat format"):
        read(tmp_path, marked)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_answer_of_a_row_with_weight_0_is_not_used_in_any_format(tmp_path: Path, kind: str) -> None:
    rows = pl.DataFrame({"instruction": ["A?", "B?"], "output": ["a", "b"], "weight": [0.0, 1.0]})
    found = pool_of(write_as(kind, tmp_path / "pool", rows), answers=True)
    assert dict(found.rows.select("instruction", "answer").iter_rows()) == {"A?": None, "B?": "b"}
    assert found.counts["answer_not_to_be_learnt"] == 1


def test_an_object_of_lists_is_a_conversation_in_parquet_too(tmp_path: Path) -> None:
    turns = {"role": ["user", "assistant"], "content": ["A?", "a"]}
    path = write_as("parquet", tmp_path / "pool", pl.DataFrame({"messages": [turns]}))
    found = pool_of(path, answers=True)
    assert found.rows.select("instruction", "answer").rows() == [("A?", "a")]


INTO_THE_INSTRUCTION = "write `{}` into the instruction (of a conversation into its last user turn)"


@pytest.mark.parametrize(
    ("row", "column", "remedy"),
    [
        ({"instruction": "Who?", "context": "Ada wrote it.", "category": "qa"}, "context", 'add input = "context" to'),
        ({"instruction": "Who?", "Input": "Ada wrote it."}, "Input", 'add input = "Input" to data.pool.columns'),
        ({"instruction": "Answer.", "question": "Who?", "id": "7"}, "question", 'add input = "question" to'),
        ({"instruction": "Who?", "system_prompt": "S"}, "system_prompt", 'add system = "system_prompt" to'),
        ({"instruction": "Who?", "System": "S"}, "System", 'add system = "System" to'),
        ({"instruction": "Who?", "system": "S", "system_prompt": "T"}, "system_prompt", "write `system_prompt` into"),
        ({"instruction": "Who?", "input": "A", "context": "B"}, "context", INTO_THE_INSTRUCTION.format("context")),
        ({"messages": "Who?", "input": "B"}, "input", INTO_THE_INSTRUCTION.format("input")),
        ({"messages": "Who?", "system_prompt": "S"}, "system_prompt", 'add system = "system_prompt" to'),
        ({"instruction": "And then?", "history": [["Who?", "Ada."]]}, "history", "give rows with `history` as"),
        ({"instruction": "Which?", "choices": ["A", "B"]}, "choices", INTO_THE_INSTRUCTION.format("choices")),
        ({"instruction": "Sum 2, 3.", "tools": '[{"name": "sum"}]'}, "tools", "leave out the rows that need `tools`"),
        ({"messages": "What is it?", "image": "cat.png"}, "image", "leave out the rows that need `image`"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_column_that_is_not_read_and_changes_what_is_asked_is_named_with_what_to_do(
    tmp_path: Path, kind: str, row: dict[str, Any], column: str, remedy: str
) -> None:
    if "messages" in row:
        row = {**row, "messages": json.dumps([{"role": "user", "content": row["messages"]}])}
    if kind == "csv":
        row = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
    path = write_as(kind, tmp_path / "pool", pl.DataFrame([row, {**row, column: None}]))
    said = pool_of(path).unread
    assert said.startswith(f"{path!r}: columns that change what a row asks are not read: `{column}` (in 1 of 2 rows); ")
    if column != "choices" or kind != "csv":
        assert remedy in said
    if mapped := re.match(r'add (\w+) = "(.+?)"', said.partition("; ")[2]):
        assert not pool_of(path, {mapped[1]: mapped[2]}).unread


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Who?", "id": "7", "category": "qa", "output": "Ada.", "text": "x", "source": "mine"},
        {"instruction": "Who?", "context": "", "history": [], "tools": "[]", "system_prompt": None, "input": "A"},
        {"instruction": "Who\nis it?", "prompt": "Below is an instruction.\n\nWho is it?\n\nAnswer:"},
        {"instruction": "Who?", "context": "N/A", "images": []},
        {"messages": [{"role": "user", "content": "Who?"}], "prompt": "Who?", "prompt_id": "7"},
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Who?"}], "system_prompt": "S"},
    ],
    ids=str,
)
def test_columns_that_say_nothing_more_are_not_named(tmp_path: Path, row: dict[str, Any]) -> None:
    assert not read(tmp_path, [row]).unread


def test_of_two_columns_for_one_field_the_first_is_proposed(tmp_path: Path) -> None:
    said = read(tmp_path, [{"instruction": "Who?", "context": "Ada wrote it.", "question": "Of them?"}]).unread
    assert 'add input = "context"' in said
    assert said.endswith(INTO_THE_INSTRUCTION.format("question"))


def test_a_heldout_set_has_the_columns_of_its_contract(tmp_path: Path) -> None:
    rows = [
        {"instruction": "A?", "reference": "1", "task_type": "Math"},
        {"instruction": "B?", "reference": "2", "split": "dev"},
    ]
    heldout = heldout_of(write(tmp_path, rows))
    assert heldout.rows.schema == pl.Schema(HELDOUT.columns)
    assert sorted(heldout.rows["split"]) == ["dev", "test"]


def test_an_instruction_in_both_splits_is_dev_so_that_no_decision_reads_a_reported_row(tmp_path: Path) -> None:
    rows = [{"instruction": "A?", "reference": "1", "split": split} for split in ("test", "dev")]
    heldout = heldout_of(write(tmp_path, [*rows, {"instruction": "B?", "reference": "2"}]))
    assert heldout.rows.filter(instruction="A?")["split"].to_list() == ["dev"]
    assert heldout.counts["duplicates"] == 1


def test_a_heldout_set_without_a_test_row_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no row of the test split"):
        heldout_of(write(tmp_path, [{"instruction": "A?", "reference": "1", "split": "dev"}]))


OWN = {"function": "mine:score", "folder": "tests"}


@pytest.mark.parametrize(
    ("verifier", "way_out"),
    [
        (None, "Where a function can tell right answers without one, name yours in judge.verifier"),
        ({"function": "numeric"}, 'judge.verifier = "numeric" says nothing without one; a function of your own may.'),
        ({**OWN, "uses": ["judge"]}, 'Or add "heldout" to judge.verifier.uses'),
        (OWN, None),
        ({**OWN, "uses": ["heldout"]}, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("heldout", ["file", "judged"])
def test_only_a_verifier_of_ones_own_lets_a_heldout_row_do_without_a_reference(
    tmp_path: Path, heldout: str, verifier: dict[str, Any] | None, way_out: str | None
) -> None:
    path = write(tmp_path, [{"instruction": "A?", "reference": "1"}, {"instruction": "B?"}])
    sets = {"file": {"type": "file", "path": path}, "judged": {"type": "judged", "references": path}}
    data = {"pool": {"type": "standin", "rows": 9}, "heldout": sets[heldout]}
    config = make_config(tmp_path, data=data, judge={"endpoint": {"type": "standin"}, "verifier": verifier})
    if way_out is None:
        found = read_heldout_of(sets_of(config), config).rows
        assert dict(found.select("instruction", "reference").iter_rows()) == {"A?": "1", "B?": None}
        return
    with pytest.raises(ConfigError) as caught:
        read_heldout_of(sets_of(config), config)
    assert "1 of 2 rows are broken:\n  row 2: no `reference`, and a held-out row is scored by it" in str(caught.value)
    assert way_out in str(caught.value)


def test_a_heldout_set_without_any_reference_is_not_said_to_be_of_another_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Repair them\. Name a verifier\.") as caught:
        heldout_of(write(tmp_path, [{"instruction": "A?"}]), on_bad_row="skip", way_out="Name a verifier.")
    assert "accepted formats" not in str(caught.value)


def sets_of(config: RunConfig) -> HeldoutConfig:
    assert config.data.heldout is not None
    return config.data.heldout
