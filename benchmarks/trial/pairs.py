"""Who teaches whom, and with what: the pair of real models on GSM8K, and a pair on the CPU that has much to learn."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tapir_core.verifiers import is_correct, numeric
from tasks.engines.training.chat import closing_token, load_tokenizer, token_ids


class Item(NamedTuple):
    """An instruction with its result."""

    text: str
    reference: str
    taught: str = ""
    """What the teacher itself is trained to answer, of the items that make it one."""


class Sizes(NamedTuple):
    """How much of everything."""

    first: int
    """Prompts of S_0."""
    prompts: int
    """Of an on-policy training, whose seconds every other arm has."""
    dev: int
    test: int
    pool: int
    most_tokens: int
    batch: int
    piece: int
    """Prompts whose answers are kept together: what a kill can lose."""
    start_rate: float
    """Learning rate of S_0."""
    seeds: tuple[int, ...]
    taught: int = 0
    """Items that make the teacher out of the student's backbone; 0 where it is a model of its own."""
    temperature: float = 0.7
    """Of the teacher's answers."""
    sampled: int = 4
    """Answers of the student's that its own right ones and pass rates come from."""

    def small(self) -> "Sizes":
        """Of a rehearsal: the same steps on 32 prompts."""
        return self._replace(
            first=16,
            prompts=32,
            dev=16,
            test=16,
            pool=96,
            most_tokens=min(64, self.most_tokens),
            batch=8,
            piece=16,
            seeds=self.seeds[:1],
            taught=min(32, self.taught),
        )


class Pair:
    """A teacher and a student with one tokenizer."""

    def __init__(
        self,
        name: str,
        sizes: Sizes,
        items: dict[str, list[Item]],
        *,
        student: Path,
        teacher: Path | None,
        mark: Callable[[Item, str], bool],
    ) -> None:
        self.name, self.sizes, self.items, self.student, self.teacher = name, sizes, items, student, teacher
        self._mark, self.tokenizer = mark, load_tokenizer(student)
        self.stops = [closing_token(self.tokenizer), self.tokenizer.eos_token_id]

    def prompt(self, item: Item) -> list[int]:
        asked = [{"role": "user", "content": item.text}]
        text = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        ids: list[int] = token_ids(self.tokenizer, text)
        return ids

    def answer(self, text: str) -> list[int]:
        return [*token_ids(self.tokenizer, text), self.stops[0]]

    def is_right(self, item: Item, answer: list[int]) -> bool:
        return self._mark(item, self.tokenizer.decode(answer, skip_special_tokens=True))


ASK = "{question}\n\nThink step by step. End with a line `Answer: ` and the number."

GSM8K = Sizes(
    first=512,
    prompts=960,
    dev=500,
    test=1319,
    pool=6144,
    most_tokens=512,
    batch=32,
    piece=1024,
    start_rate=1e-5,
    seeds=(1, 2, 3),
)
STANDIN = Sizes(
    first=128,
    prompts=640,
    dev=400,
    test=400,
    pool=2560,
    most_tokens=48,
    batch=16,
    piece=64,
    start_rate=2e-4,
    seeds=(1, 2, 3, 4, 5),
    taught=832,
    temperature=0.0,
)


def gsm8k(folder: Path, given: Any, *, small: bool) -> Pair:
    """Qwen2.5-Coder 1.5B teaches 0.5B; dev is the last of the training split."""
    if lacking := [f"--{name}" for name in ("student", "teacher", "data") if getattr(given, name) is None]:
        raise SystemExit(f"gsm8k needs {', '.join(lacking)}: folders of two models and of train.jsonl and test.jsonl")
    sizes = GSM8K.small() if small else GSM8K
    rows = {name: [json.loads(line) for line in (given.data / f"{name}.jsonl").open()] for name in ("train", "test")}
    train, test = (
        [
            Item(ASK.format(question=row["question"]), row["answer"].partition("####")[2].strip().replace(",", ""))
            for row in of
        ]
        for of in rows.values()
    )
    dev, rest = train[-sizes.dev :], train[: -sizes.dev]
    random.Random(1).shuffle(rest)
    items = {"dev": dev, "test": test[: sizes.test], "first": rest[: sizes.first]}
    items["pool"] = rest[sizes.first : sizes.first + sizes.pool]
    return Pair(
        "gsm8k",
        sizes,
        items,
        student=given.student,
        teacher=given.teacher,
        mark=lambda item, answer: bool(numeric(item.text, answer, item.reference)),
    )


def standin(folder: Path, given: Any, *, small: bool) -> Pair:
    """A student (SmolLM2-135M if none is given), fine-tuned on the stand-in's answers, teaches the untouched one."""
    # Only here: the other pair needs none of what these import.
    from tapir_core.config.load import load_config
    from tapir_core.sources import standin_pool
    from tapir_core.standin.families import recognise
    from tasks.engines.backbone import prepare_backbone

    sizes = STANDIN.small() if small else STANDIN
    rows = standin_pool(sizes.taught + sizes.first + sizes.pool + sizes.dev + sizes.test, 2, 46).to_dicts()
    random.Random(1).shuffle(rows)
    items = dict[str, list[Item]]()
    for name in ("taught", "first", "pool", "dev", "test"):
        part, rows = rows[: getattr(sizes, name)], rows[getattr(sizes, name) :]
        found = [(row["instruction"], row["reference"], recognise(row["instruction"])) for row in part]
        items[name] = [Item(text, reference, of.plain) for text, reference, of in found if of]
    return Pair(
        "standin",
        sizes,
        items,
        student=given.student or prepare_backbone(load_config("configs/quickstart.toml").student, folder / "backbone"),
        teacher=None,
        mark=lambda item, answer: is_correct(answer, item.reference),
    )


PAIRS: dict[str, Callable[..., Pair]] = {"gsm8k": gsm8k, "standin": standin}
