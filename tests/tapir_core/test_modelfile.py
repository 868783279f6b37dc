"""The Modelfile of an export: its Go template writes what the student was trained on, and stops where it stops."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest

from tapir_core.config.student import PRESETS, StudentConfig
from tapir_core.run_files import write_modelfile
from tapir_core.storage import Storage

FAMILIES = {
    "chatml": ("Qwen2ForCausalLM", {151643: "<|endoftext|>", 151645: "<|im_end|>"}, "<|im_end|>"),
    "llama3.2": ("LlamaForCausalLM", {128000: "<|begin_of_text|>", 128009: "<|eot_id|>"}, "<|eot_id|>"),
    "gemma3": ("Gemma3ForCausalLM", {2: "<bos>", 106: "<end_of_turn>"}, "<end_of_turn>"),
}
ONE_TURN = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}]
TALK = [*ONE_TURN, {"role": "assistant", "content": "5"}, {"role": "user", "content": "And\n\n4?"}]
SAID = {"one turn": ONE_TURN, "no system text": ONE_TURN[1:], "three turns": TALK}


class GoTemplate:
    """As much of Go's templates as the shipped ones use: range over messages, if, variables, fields, trimmed blanks."""

    def __init__(self, source: str) -> None:
        source = re.sub(r"\s*\{\{- ", "{{ ", source)
        assert " -}}" not in source
        self._pieces = re.split(r"(\{\{ .*? \}\})", source)

    def render(self, messages: list[dict[str, str]]) -> str:
        system = "\n\n".join(each["content"] for each in messages if each["role"] == "system")
        self._known = {".System": system, ".Messages": messages}
        return "".join(self._run(0, len(self._pieces), {}))

    def _run(self, place: int, end: int, dot: dict[str, str]) -> Iterator[str]:
        while place < end:
            piece = self._pieces[place]
            words = piece[3:-3].split(" ", 1) if piece.startswith("{{") else []
            if not words:
                yield piece
            elif words[0] == "range":
                last = self._branches(place)[-1]
                for message in self._known[words[1]]:
                    yield from self._run(place + 1, last, {f".{name.title()}": text for name, text in message.items()})
                place = last
            elif words[0] == "if":
                branches = self._branches(place)
                conditions = [self._pieces[at][3:-3].rpartition("if ")[2] for at in branches[:-1]]
                true = [at for at, told in enumerate(conditions) if self._holds(told, dot)]
                if true:
                    yield from self._run(branches[true[0]] + 1, branches[true[0] + 1], dot)
                place = branches[-1]
            elif len(words) == 2:
                assert re.fullmatch(r":?= \S+", words[1])
                self._known[words[0]] = self._value(words[1].split()[1], dot)
            else:
                yield self._value(words[0], dot)
            place += 1

    def _branches(self, place: int) -> list[int]:
        """Of a range or an if: where it begins, each of its own `else if`, and its end."""
        depth, found = 0, []
        for at in range(place, len(self._pieces)):
            word = self._pieces[at][3:-3].split(" ")[0] if self._pieces[at].startswith("{{") else ""
            depth += (word in ("range", "if")) - (word == "end")
            if at == place or (word == "else" and depth == 1) or (word == "end" and depth == 0):
                found.append(at)
            if word == "end" and depth == 0:
                return found
        raise AssertionError("no end")

    def _holds(self, condition: str, dot: dict[str, str]) -> bool:
        how, *values = condition.split(" ")
        if not values:
            return bool(self._value(how, dot))
        one, other = (self._value(each, dot) for each in values)
        return {"eq": one == other, "ne": one != other}[how]

    def _value(self, name: str, dot: dict[str, str]) -> Any:
        return name[1:-1] if name.startswith('"') else dot[name] if name in dot else self._known[name]


def checkpoint(folder: Path, family: str, **changed: Any) -> Storage:
    architecture, tokens, _ = FAMILIES[family]
    files: dict[str, Any] = {
        "config.json": {"architectures": [architecture]},
        "tokenizer.json": {"added_tokens": [{"id": each, "content": text} for each, text in tokens.items()]},
        "generation_config.json": {"eos_token_id": max(tokens)},
        **changed,
    }
    storage = Storage(folder)
    for name, content in files.items():
        storage.write_bytes(name, json.dumps(content).encode())
    storage.write_bytes("chat_template.jinja", (PRESETS / f"{family}.jinja").read_bytes())
    return storage


def template_of(text: str) -> str:
    found = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_go_template_writes_what_the_chat_template_writes(
    tmp_path: Path, family: str, said: list[dict[str, str]]
) -> None:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    trained = environment.from_string((PRESETS / f"{family}.jinja").read_text())
    wanted = trained.render(messages=said, add_generation_prompt=True, bos_token="", eos_token="")
    text, _ = write_modelfile(checkpoint(tmp_path, family), StudentConfig())
    assert GoTemplate(template_of(text)).render(said) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_it_stops_where_the_student_stops_and_draws_as_in_the_run(tmp_path: Path, family: str) -> None:
    student = StudentConfig.model_validate({"sampling": {"temperature": 0.7, "top_p": 0.9, "max_tokens": 300}})
    text, why = write_modelfile(checkpoint(tmp_path, family), student)
    assert why == ""
    assert re.findall("PARAMETER (.*)", text) == [
        f'stop "{FAMILIES[family][2]}"',
        "temperature 0.7",
        "top_p 0.9",
        "num_predict 300",
        "num_ctx 2048",
    ]
    assert "Never run with Ollama" in text.splitlines()[0]
    assert "\nFROM .\n" in text


def test_several_tokens_may_end_an_answer(tmp_path: Path) -> None:
    several = {"generation_config.json": {"eos_token_id": [151645, 151643]}}
    text, _ = write_modelfile(checkpoint(tmp_path, "chatml", **several), StudentConfig())
    assert re.findall('stop "(.*)"', text) == ["<|im_end|>", "<|endoftext|>"]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "config.json",
            b'{"architectures": ["MixtralForCausalLM"]}',
            "MixtralForCausalLM is none of Qwen2ForCausalLM, ",
        ),
        ("config.json", b"{}", "the architecture of its config.json is none of"),
        ("chat_template.jinja", b"{{ messages[0].content }}", "its chat template is not `chatml`"),
        ("generation_config.json", b"{}", "no token that ends an answer"),
    ],
)
def test_what_is_not_known_to_fit_gets_none_and_the_reason(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    storage = checkpoint(tmp_path, "chatml")
    storage.write_bytes(name, content)
    text, said = write_modelfile(storage, StudentConfig())
    assert text == ""
    assert why in said
