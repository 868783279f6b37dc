"""Whether a teacher can score, token by token, what a student has sampled: what two checkpoints must have in common.

Scores are log-probabilities of the student's token ids under the teacher. They mean nothing where an id is another
text, where a conversation is rendered into other ids, or where an answer ends with another token; training on them then
fails without a word (tinker-cookbook #796, trl #2215, ms-swift #9526). Nothing here loads weights.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from jinja2 import TemplateError

from tasks.engines import machine
from tasks.engines.training import chat, launch

_WORDS = (
    *("Hello, world!", " the", "THE", "\n\n", "\t\tindented", "   three blanks", "trailing ", "CamelCaseWord", "don't"),
    *("1234567890", "3.14159", "1,000,000", "0x1F", "2026-11-27T21:52:07Z", "$5.00", "100%", "a+b=c", "x² ≤ √y", "½"),
    *("def f(x):\n    return x", "{'key': [1, 2]}", '<div class="a">', "SELECT *;", "http://a.example/b?c=d#e", "\\n"),
    *(
        "Grüße aus Köln",
        "naïve café",
        "Привет, мир",
        "مرحبا بالعالم",
        "שלום",
        "नमस्ते दुनिया",
        "สวัสดี",
        "你好,世界",
        "こんにちは",
    ),
    *("안녕하세요", "🙂👍🏽", "👨‍👩‍👧", "e\u0301", "\u200b", "ﬁ"),
)
_FORMS = ("{0}", " {0}", "{0}\n{0}", "({0})", "{0}{0}")
TEXTS = tuple(form.format(word) for word, form in itertools.product(_WORDS, _FORMS))
"""200 texts in which tokenizers part: blanks, digits, code, other scripts, joined and invisible characters."""

_TALK = [*chat.EXCHANGE, {"role": "user", "content": "And three plus three?"}]
_CONVERSATIONS = (_TALK[:1], _TALK, [{"role": "system", "content": "Be brief."}, *_TALK])


class Compared(NamedTuple):
    """One thing of a pair."""

    part: str
    found: str
    """In words, what is alike, or what is not."""
    remedy: str = ""
    """Of what is not alike; empty where all is well."""


class _Side(NamedTuple):
    name: str
    folder: Path
    tokenizer: Any

    def read(self, file: str) -> dict[str, Any]:
        path = self.folder / file
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    def ids(self, text: str) -> list[int]:
        return list(chat.token_ids(self.tokenizer, text))

    def prompts(self, conversation: chat.Conversation, **how: Any) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True, **how)
            )
        except TemplateError as error:  # how a template refuses a role; alike where both do
            return f"(refused: {error})"


def compare_pair(teacher: Path, student: Path, chat_template: Path | None = None) -> Iterator[Compared]:
    """Compare two checkpoints, a part at a time.

    Args:
        teacher: folder of the checkpoint that scores.
        student: folder of the checkpoint that samples.
        chat_template: what both are asked with; each one's own where it is left out.

    Raises:
        ConfigError: one of the two is no checkpoint, or has no chat template.
    """
    sides = [
        _Side(name, folder, chat.load_tokenizer(folder, chat_template))
        for name, folder in (("teacher", teacher), ("student", student))
    ]
    for compare in (_texts, _tokens, _template, _ends, _thinking, _vocabulary):
        yield compare(*sides)
    yield _memory(sides[0])


_OTHER_TEACHER = "take a teacher of the student's family, with its tokenizer"
_ONE_TEMPLATE = "give both one template (--chat-template here, student.chat_template in a run; docs/backbones.md)"


def _texts(one: _Side, other: _Side) -> Compared:
    apart = next((text for text in TEXTS if one.ids(text) != other.ids(text)), None)
    if apart is None:
        return Compared("tokens", f"{len(TEXTS)} texts have the same ids")
    differs = f"{apart!r} is {one.ids(apart)[:6]} for the teacher and {other.ids(apart)[:6]} for the student"
    return Compared("tokens", differs, _OTHER_TEACHER)


def _tokens(one: _Side, other: _Side) -> Compared:
    ours, theirs = (
        {each.content: token for token, each in side.tokenizer.added_tokens_decoder.items()} for side in (one, other)
    )
    moved = [token for token in ours.keys() & theirs.keys() if ours[token] != theirs[token]]
    alone = sorted(ours.keys() ^ theirs.keys())
    if moved or alone:
        token = min(moved) if moved else alone[0]
        return Compared(
            "special tokens",
            f"{token!r} is {ours.get(token, 'no token')} for the teacher and {theirs.get(token, 'none')} for the "
            "student",
            _OTHER_TEACHER,
        )
    return Compared("special tokens", f"{len(ours)} have the same ids")


def _template(one: _Side, other: _Side) -> Compared:
    for talk in _CONVERSATIONS:
        texts = [side.prompts(talk) for side in (one, other)]
        if texts[0] != texts[1]:
            both = enumerate(zip(*(f"{each}\0" for each in texts), strict=False))
            at = next(place for place, (ours, theirs) in both if ours != theirs)
            ours, theirs = (f"…{each[max(0, at - 20) : at + 40]!r}" for each in texts)
            return Compared("chat template", f"the teacher is asked {ours}, the student {theirs}", _ONE_TEMPLATE)
    return Compared("chat template", f"{len(_CONVERSATIONS)} conversations are rendered alike")


def _ends(one: _Side, other: _Side) -> Compared:
    ours, theirs = (chat.closing_token(side.tokenizer) for side in (one, other))
    shown = one.tokenizer.convert_ids_to_tokens(ours)
    if ours != theirs:
        differs = f"{shown!r} for the teacher, {other.tokenizer.convert_ids_to_tokens(theirs)!r} for the student"
        return Compared("end of an answer", differs, _ONE_TEMPLATE)
    for side in (one, other):
        stops = side.read("generation_config.json").get("eos_token_id", side.read("config.json").get("eos_token_id"))
        if stops is not None and ours not in (stops if isinstance(stops, list) else [stops]):
            differs = f"the {side.name} ends an answer with {shown!r} ({ours}), and its generation stops at {stops}"
            remedy = f"add {ours} to eos_token_id in {side.folder / 'generation_config.json'}"
            return Compared("end of an answer", differs, remedy)
    return Compared("end of an answer", f"{shown!r} for both")


def _thinking(one: _Side, other: _Side) -> Compared:
    def mode(side: _Side) -> str:
        on, off = (side.prompts(_TALK, enable_thinking=each) for each in (True, False))
        if on == off:
            return "has no thinking mode"
        return "thinks by default" if side.prompts(_TALK) == on else "thinks only if asked to"

    ours, theirs = mode(one), mode(other)
    return Compared("thinking", f"the teacher {ours}, the student {theirs}", "" if ours == theirs else _ONE_TEMPLATE)


def _vocabulary(one: _Side, other: _Side) -> Compared:
    read = (side.read("config.json") for side in (one, other))
    ours, theirs = (config.get("text_config", config)["vocab_size"] for config in read)
    same = f"{ours:,}, both" if ours == theirs else f"{ours:,} and {theirs:,}: padding, which is fine for stored ids"
    return Compared("embeddings", same)


def _memory(teacher: _Side) -> Compared:
    size = sum(file.stat().st_size for file in teacher.folder.glob("*.safetensors"))
    room, where = sum(machine.gpu_memory()), "GPU memory"
    if not room:
        room, where = psutil.virtual_memory().total, "memory"
    said = f"{size / 2**30:.1f} GiB of the teacher's weights, {room / 2**30:.1f} GiB of {where} here"
    # Scores are made by a server that holds a cache beside the weights.
    return Compared("memory", said, "" if 1.2 * size <= room else "take a smaller teacher, or a machine with more")


def main(*folders: str) -> None:
    """In a child of who drives a run: print what differs, of teacher, student and maybe a chat template."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # a tokenizer needs none
    print(json.dumps([each._asdict() for each in compare_pair(*map(Path, folders)) if each.remedy]))


if __name__ == "__main__":
    sys.exit(launch.exit_code(lambda: main(*sys.argv[1:])))
