"""Files of hosted fine-tunes: what is a row, what is not, and what is held out."""

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.data import readers
from tapir_core.data.fine_tunes import FineTune, read_fine_tune
from tapir_core.data.records import read_records
from tapir_core.errors import ConfigError
from tapir_core.tools import Call, result_text, same_calls
from tapir_core.turns import user_texts


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def chat(*texts: str) -> list[dict[str, Any]]:
    return [said(("user", "assistant")[place % 2], text) for place, text in enumerate(texts)]


def read(tmp_path: Path, *records: Any) -> FineTune:
    file = tmp_path / "ft.jsonl"
    file.write_text("".join(f"{json.dumps(each)}\n" for each in records))
    return read_fine_tune(str(file))


def pairs(found: FineTune) -> list[tuple[str, str | None]]:
    return [(row.instruction, row.answer) for row in found.rows]


def test_every_answer_of_a_conversation_is_a_row_with_all_turns_before_it(tmp_path: Path) -> None:
    turns = [said("system", "Be brief."), *chat("Hello?", "Hi.", "A tapir?", "A mammal.")]
    found = read(tmp_path, {"messages": turns})
    assert pairs(found) == [("Hello?", "Hi."), ("A tapir?", "A mammal.")]
    assert {row.system for row in found.rows} == {"Be brief."}
    assert [json.loads(row.earlier_turns or "[]") for row in found.rows] == [[], chat("Hello?", "Hi.")]


def test_a_turn_of_weight_0_is_context_only(tmp_path: Path) -> None:
    turns = [*chat("One?", "Bad."), *chat("Two?", "Good.")]
    turns[1]["weight"] = 0
    turns[3]["weight"] = 1
    found = read(tmp_path, {"messages": turns})
    assert pairs(found) == [("Two?", "Good.")]
    assert "Bad." in str(found.rows[0].earlier_turns)
    assert [count for what, count in found.left_out.items() if "weight 0" in what] == [1]


@pytest.mark.parametrize("name", ["preferred_output", "preferred_completion"])
def test_of_a_pair_the_preferred_answer_counts(tmp_path: Path, name: str) -> None:
    pair = {"input": {"messages": chat("Hot?"), "tools": []}, name: [said("assistant", "Yes.")]}
    found = read(tmp_path, {**pair, f"non_{name}": [said("assistant", "No.")]})
    assert pairs(found) == [("Hot?", "Yes.")]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": chat("Hot?"), "choices": [{"message": said("assistant", "Yes.")}], "model": "ft:a"},
        {"input_messages": chat("Hot?"), "choices": [{"message": said("assistant", "Yes.")}], "model": "ft:a"},
        {
            "request": {"messages": chat("Hot?"), "model": "ft:a"},
            "response": {"choices": [{"message": said("assistant", "Yes.")}]},
        },
        {
            "body": {"messages": chat("Hot?"), "model": "ft:a"},
            "response": {"body": {"choices": [{"message": said("assistant", "Yes.")}]}},
        },
    ],
)
def test_a_stored_completion_says_who_answered(tmp_path: Path, record: dict[str, Any]) -> None:
    found = read(tmp_path, record)
    assert pairs(found) == [("Hot?", "Yes.")]
    assert found.models == {"ft:a"}


WEIGH = {"name": "weigh", "parameters": {"type": "object"}}
ARGUMENTS = json.dumps({"animal": "tapir"})


@pytest.mark.parametrize("is_old", [False, True], ids=["tools", "functions"])
def test_calls_and_results_of_tools_are_part_of_a_conversation_and_are_written_back(
    tmp_path: Path, *, is_old: bool
) -> None:
    function = {"name": "weigh", "arguments": ARGUMENTS}
    calls = [{"id": "a", "type": "function", "function": function}]
    call = {"function_call": function} if is_old else {"tool_calls": calls}
    turns = [
        *chat("How heavy?"),
        said("assistant", None, **call),
        said("function" if is_old else "tool", "250 kg", **({"name": "weigh"} if is_old else {"tool_call_id": "a"})),
        said("assistant", "It weighs 250 kg."),
    ]
    defined = {"functions": [WEIGH]} if is_old else {"tools": [{"type": "function", "function": WEIGH}]}
    found = read(tmp_path, {"messages": turns, **defined})
    first, second = found.rows
    assert same_calls(first.answer or "", Call("weigh", {"animal": "tapir"}).text) == 1
    assert (second.instruction, second.answer) == (result_text("250 kg"), "It weighs 250 kg.")
    found.write(tmp_path / "pool.jsonl", set())
    again = [json.loads(line) for line in (tmp_path / "pool.jsonl").read_text().splitlines()]
    assert [each["tools"][0]["function"] for each in again] == [WEIGH, WEIGH]
    [called] = again[0]["messages"][-1]["tool_calls"]
    assert (called["function"]["name"], json.loads(called["function"]["arguments"])) == ("weigh", {"animal": "tapir"})
    result = again[1]["messages"][2]
    assert (result["role"], result["content"], result["tool_call_id"]) == ("tool", "250 kg", called["id"])


def test_tools_that_are_no_list_break_the_row(tmp_path: Path) -> None:
    found = read(tmp_path, {"messages": chat("Cold?", "No.")}, {"messages": chat("Hot?", "Yes."), "tools": "weigh"})
    assert pairs(found) == [("Cold?", "No.")]
    assert len(found.bad) == 1


def test_a_refusal_is_no_answer_and_a_last_question_asks(tmp_path: Path) -> None:
    refused = [*chat("Bomb?"), said("assistant", None, refusal="No.")]
    found = read(tmp_path, {"messages": refused}, {"messages": chat("Hot?")})
    assert pairs(found) == [("Hot?", None)]
    assert [count for what, count in found.left_out.items() if "refusal" in what] == [1]


def test_rows_that_ask_the_same_are_one_and_an_answer_is_kept(tmp_path: Path) -> None:
    found = read(tmp_path, {"messages": chat("Hot?")}, {"messages": chat("Hot? ", "Yes.")})
    assert pairs(found) == [("Hot?", "Yes.")]
    assert sum(found.left_out.values()) == 1


def test_broken_rows_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    picture = [said("user", [{"type": "image_url", "image_url": {"url": "x"}}]), said("assistant", "A cat.")]
    bad = [{"messages": picture}, {"messages": ["Hot?"]}, {"prompt": "Hot?"}, {"messages": [said("assistant", "Hi.")]}]
    found = read(tmp_path, {"messages": chat("Cold?", "No.")}, *bad)
    assert pairs(found) == [("Cold?", "No.")]
    assert [each.split(":")[0] for each in found.bad] == ["row 2", "row 3", "row 4", "row 5"]


def test_a_file_without_a_row_is_refused_with_the_reasons(tmp_path: Path) -> None:
    silent = [*chat("Bomb?"), said("assistant", None, refusal="No.")]
    with pytest.raises(ConfigError, match=r"1 assistant turns without text.*row 2.*docs/adopt.md"):
        read(tmp_path, {"messages": silent}, {"messages": [said("assistant", "Hi.")]})


def test_a_table_of_pairs_is_taken_and_another_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    asked = [{"messages": [said("user", f"Q{each}?")]} for each in range(3)]
    table = pl.DataFrame({"input": asked, "preferred_output": [[said("assistant", "A")]] * 3})
    table.write_parquet(tmp_path / "pairs.parquet")
    assert pairs(read_fine_tune(str(tmp_path / "pairs.parquet"))) == [(f"Q{each}?", "A") for each in range(3)]
    (tmp_path / "other.csv").write_text("question,answer\nWhat?,That.\n")
    with pytest.raises(ConfigError, match=r"no column instruction, .*, request or body \(found 'question'") as refused:
        read_fine_tune(str(tmp_path / "other.csv"))
    assert "data.pool" not in str(refused.value), "there is no configuration yet"


def test_a_pool_in_another_format_is_taken_too(tmp_path: Path) -> None:
    found = read(tmp_path, {"instruction": "Add.", "input": "1, 2", "output": "3"})
    assert pairs(found) == [("Add.\n\n1, 2", "3")]


def test_whole_conversations_are_held_out_and_lose_their_answers(tmp_path: Path) -> None:
    turns = [{"messages": chat(f"{each}?", "a.", f"And {each}?", "b.")} for each in range(20)]
    found = read(tmp_path, *turns)
    held_out = found.held_out(8, random.Random(3))
    assert len(held_out) == 4, "two rows each"
    assert found.held_out(8, random.Random(3)) == held_out
    with pytest.raises(ConfigError, match="too few conversations to hold some out and learn from the others: 20 with"):
        found.held_out(1000, random.Random(3))
    assert found.write(tmp_path / "pool.jsonl", held_out) == 32
    records = [*read_records(str(tmp_path / "pool.jsonl"))]
    rows = [readers.read_row(each.fields, answers=True) for each in records]
    assert [row.instruction_id for row in rows] == [row.instruction_id for row in found.rows]
    blank = {group for group, row in zip(found.groups, rows, strict=True) if row.answer is None}
    assert blank == held_out
    assert sum(row.answer is None for row in rows) == 8


def test_conversations_with_a_row_to_ask_for_are_held_out_first(tmp_path: Path) -> None:
    turns = [{"messages": chat(f"{each}?", "a.", f"And {each}?", "b.")} for each in range(20)]
    found = read(tmp_path, *turns, {"messages": chat("Last?", "a.", "And last?")})
    for seed in range(5):
        assert "Last?" in found.held_out(6, random.Random(seed))


def test_a_session_logged_call_by_call_is_one_conversation(tmp_path: Path) -> None:
    def logged(session: int, turn: int) -> dict[str, Any]:
        asked = chat(*(f"{session}, {each // 2} {'?' if each % 2 == 0 else '.'}" for each in range(2 * turn - 1)))
        return {"messages": asked, "choices": [{"message": said("assistant", "Yes."), "finish_reason": "stop"}]}

    found = read(tmp_path, *(logged(session, turn) for session in range(10) for turn in range(1, 6)))
    assert len(found.rows) == 50
    held_out = found.held_out(10, random.Random(1))
    rows = [(group in held_out, row) for group, row in zip(found.groups, found.rows, strict=True)]
    asked = [user_texts(row._asdict())[-1] for is_held, row in rows if is_held]
    trained = [text for is_held, row in rows if not is_held for text in user_texts(row._asdict())]
    assert len(asked) == 10
    assert not {*asked} & {*trained}


def test_a_greeting_that_most_conversations_share_is_not_held_out(tmp_path: Path) -> None:
    shared = [{"messages": chat("Hello", "Hi.", f"{each}?", "a.")} for each in range(70)]
    found = read(tmp_path, *shared, *({"messages": chat(f"{each}!", "b.")} for each in range(20)))
    held_out = found.held_out(10, random.Random(2))
    assert "Hello" not in held_out
    assert len(held_out) == 10


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_completion_that_was_cut_off_is_no_answer(tmp_path: Path, reason: str) -> None:
    cut = {
        "messages": chat("Hot?"),
        "choices": [{"message": said("assistant", "Yes it is very ho"), "finish_reason": reason}],
    }
    found = read(tmp_path, cut, {"messages": chat("Cold?", "No.")})
    assert pairs(found) == [("Cold?", "No.")]
    assert [count for what, count in found.left_out.items() if "cut off" in what] == [1]
    assert not any("without text" in what for what in found.left_out), "counted once"


@pytest.mark.parametrize("kind", ["pair", "completion"])
def test_what_an_assistant_said_before_the_given_answer_is_context(tmp_path: Path, kind: str) -> None:
    before, answer = chat("2 + 2?", "5.", "3 + 3?"), said("assistant", "6.")
    records = {
        "pair": {"input": {"messages": before}, "preferred_output": [answer], "non_preferred_output": [answer]},
        "completion": {"messages": before, "choices": [{"message": answer}, {"message": answer}]},
    }
    found = read(tmp_path, records[kind])
    assert pairs(found) == [("3 + 3?", "6.")]
    assert sum(found.left_out.values()) == (kind == "completion"), "a further choice is counted"


def test_a_row_that_is_not_to_be_learnt_is_not(tmp_path: Path) -> None:
    found = read(tmp_path, {"messages": chat("Hot?", "Yes."), "weight": 0}, {"messages": chat("Cold?", "No.")})
    assert pairs(found) == [("Cold?", "No.")]


def test_results_of_parallel_calls_go_to_their_calls_in_whatever_order(tmp_path: Path) -> None:
    calls = [
        {"id": each, "type": "function", "function": {"name": "weigh", "arguments": f'{{"of": "{each}"}}'}}
        for each in "ab"
    ]
    results = [said("tool", f"{each} kg", tool_call_id=each) for each in "ba"]
    turns = [*chat("Both?"), said("assistant", "Let me see.", tool_calls=calls), *results, said("assistant", "Done.")]
    found = read(tmp_path, {"messages": turns, "tools": [{"type": "function", "function": WEIGH}]})
    found.write(tmp_path / "pool.jsonl", set())
    *_, last = [json.loads(line)["messages"] for line in (tmp_path / "pool.jsonl").read_text().splitlines()]
    assert last[1]["content"] == "Let me see."
    ids = [each["id"] for each in last[1]["tool_calls"]]
    assert [(each["tool_call_id"], each["content"]) for each in last[2:4]] == [(ids[0], "a kg"), (ids[1], "b kg")]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [*chat("Hot?"), said("assistant", None, tool_calls=[{"function": None}])]},
        {
            "messages": [
                *chat("Hot?"),
                said("assistant", None, tool_calls=[{"type": "custom", "custom": {"name": "f"}}]),
            ]
        },
        {"messages": [*chat("Hot?"), said("assistant", 5)]},
        {"input": {"messages": chat("Hot?")}, "preferred_output": 5},
        {"messages": chat("Hot?", "Yes."), "tools": [{"type": "custom", "custom": {"name": "f"}}]},
    ],
)
def test_whatever_is_no_row_is_named_and_the_rest_goes_on(tmp_path: Path, record: dict[str, Any]) -> None:
    found = read(tmp_path, record, {"messages": chat("Cold?", "No.")})
    assert pairs(found) == [("Cold?", "No.")]
    assert len(found.bad) == 1


def test_lone_surrogates_in_calls_can_be_written(tmp_path: Path) -> None:
    call = [{"id": "a", "type": "function", "function": {"name": "weigh", "arguments": '{"of": "\\ud800"}'}}]
    found = read(tmp_path, {"messages": [*chat("Hot?"), said("assistant", None, tool_calls=call)]})
    assert found.write(tmp_path / "pool.jsonl", set()) == 1


def test_what_stands_beside_a_conversation_counts_as_in_a_pool(tmp_path: Path) -> None:
    beside = {"system": "Answer in French.", "source": "mails", "reference": "Oui."}
    turns = [{"from": "human", "value": "Yes?"}, {"from": "gpt", "value": "Oui."}]
    found = read(tmp_path, {**beside, "conversations": turns}, {"messages": chat("No?"), "output": "Non."})
    assert pairs(found) == [("Yes?", "Oui."), ("No?", "Non.")]
    [row, _] = found.rows
    assert {name: getattr(row, name) for name in beside} == beside
    logged = read(tmp_path, {"messages": chat("No?"), "output": [{"type": "message"}]})
    assert pairs(logged) == [("No?", None)]
