"""What is trained, and in which step: from messages to tokens with their loss mask, and to batches. Loads no torch.

The loss is on the last assistant message and its closing token. What stands before that message is the prompt,
rendered and tokenized as the student server does it. A thought that only the generation prompt opens is closed empty
before the answer. Text that a chat template puts after the closing token is left off: the student never writes it. An
answer's text becomes no special token. In a prompt the server would read it as one: such an example is left out.

The examples of all epochs are one stream in a seeded order; every batch is full but the last, and no example is lost or
cut. A batch is made of a few *bundles* of examples of like length, drawn at random: bundles make padding small, and
several of them keep a batch from being of one length, and so of one kind of task, whose gradient serves that kind only.
A *group* is what all ranks hold at one time. The trainer counts steps and tokens by these batches, and so does who
wants to know before: they agree to the token. For the latter a child runs this module (jobs as JSON on its standard
input, counts as one line on its output), which loads the tokenizer.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pyarrow.compute as pc

from tapir_core import errors, randomness
from tapir_core.config.student import PRESETS, shipped
from tasks.engines.training.trainer import TrainingCount, TrainingJob, exit_code

IGNORED = -100
"""The label of a token without loss."""

Conversation = list[dict[str, str]]

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenized conversation; the tokens from ``prompt_length`` on are trained."""

    tokens: list[int]
    prompt_length: int

    @property
    def labels(self) -> list[int]:
        """The tokens, with `IGNORED` in place of the prompt's."""
        return [IGNORED] * self.prompt_length + self.tokens[self.prompt_length :]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The examples that fit, in memory-mapped files, and how many did not."""

    rows: Any
    """A data set of Hugging Face: `input_ids` and `labels` of each example, and last a filler without labels."""
    lengths: list[int]
    """Tokens of each example."""
    prompt_lengths: list[int]
    """Those of them that are not trained."""
    left_out: int
    closing: int
    """Id of the token that ends an answer."""

    def example(self, index: int) -> Example:
        """One of them, from 0."""
        return Example(self.rows[index]["input_ids"], self.prompt_lengths[index])


def load_tokenizer(base: Path, chat_template: Path | None = None) -> Any:
    """The base's tokenizer, with ``chat_template`` in place of its own if there is one.

    Raises:
        ConfigError: the base is no checkpoint.
    """
    if not (base / "config.json").exists():
        raise errors.ConfigError(
            f"{base} holds no config.json; a student is a folder of config, safetensors and tokenizer"
        )
    from transformers import AutoTokenizer  # only here: the driver reads batches, and loads none of it

    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    if chat_template is not None:
        tokenizer.chat_template = chat_template.read_text()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_conversations(files: Sequence[Path]) -> Iterator[Conversation]:
    """The ``messages`` of every row, in order; nothing is read before the first is asked for.

    Raises:
        ConfigError: a conversation does not end with an answer.
    """
    tables = (pl.read_parquet(file, columns=["messages"]) for file in files)
    rows = (row for table in tables for part in table.iter_slices(_BATCH) for row in part["messages"].to_list())
    for number, messages in enumerate(rows):
        roles = [message["role"] for message in messages or []]
        if len(roles) < 2 or roles[-1] != "assistant":
            raise errors.ConfigError(
                f"row {number} of the mixture ({files[0].parent}) has the roles {roles}; a training example is a "
                "prompt and, last, an assistant message"
            )
        yield messages


def closing_token(tokenizer: Any) -> int:
    """The token that ends an answer: the template's last special token after one, else the end-of-sequence token.

    Raises:
        ConfigError: there is no chat template, or neither token exists.
    """
    if not tokenizer.chat_template:
        raise errors.ConfigError(
            f"{tokenizer.name_or_path} has no chat template, so an instruction cannot be shown to it; "
            "set student.chat_template to a Jinja file"
        )
    [(_, written)] = render(tokenizer, [EXCHANGE])
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    after = _ids(tokenizer, written.rpartition(EXCHANGE[-1]["content"])[2])
    closing = next((token for token in reversed(after) if token in special), tokenizer.eos_token_id)
    if closing is None:
        raise errors.ConfigError(
            f"the chat template of {tokenizer.name_or_path} puts no special token after an answer and its tokenizer "
            "has no end-of-sequence token, so the student could not learn to stop; give one of the two"
        )
    return int(closing)


def encode(
    tokenizer: Any, conversations: Iterable[Conversation], *, max_length: int, folder: Path | None = None
) -> Corpus:
    """Tokenize; an example longer than ``max_length``, or with a special token's text in its prompt, is left out.

    Args:
        tokenizer: With a chat template.
        conversations: Read by the process that tokenizes, and by no other.
        max_length: Most tokens of an example.
        folder: Where the tokens lie. The first process that comes writes them; the others wait, and map the same files.
            Without it they lie in a file of this process, which leaves nothing behind.

    Raises:
        ConfigError: no example is left, one has no answer to train, or the chat template renders it otherwise.
    """
    closing = closing_token(tokenizer)

    def examples() -> Iterator[Example]:
        yield from _examples(tokenizer, conversations, closing)
        yield Example([closing] * 2, prompt_length=2)

    # A mapped file can be read when it has no name any more.
    with nullcontext(folder) if folder else TemporaryDirectory() as place:
        rows = _mapped(examples, Path(place))
    lengths = pc.list_value_length(rows.data.column("input_ids")).to_pylist()[:-1]
    prompt_lengths = rows.data.column("prompt_length").to_pylist()
    kept = [number for number, length in enumerate(lengths) if 0 < length <= max_length]
    if not kept:
        raise errors.ConfigError(
            f"none of the {len(lengths)} examples fits training.max_length = {max_length}; "
            f"the shortest has {min(filter(None, lengths), default=0)} tokens, and {lengths.count(0)} have the text "
            "of a special token in their prompt"
        )
    for number, row in enumerate(kept):
        if lengths[row] == prompt_lengths[row] + 1:
            raise errors.ConfigError(
                f"example {number} trains 1 tokens, the closing token {closing}, and no answer before it; look at its "
                "messages and at the chat template"
            )
    return Corpus(
        rows=rows.select([*kept, len(lengths)]).select_columns(["input_ids", "labels"]),
        lengths=[lengths[row] for row in kept],
        prompt_lengths=[prompt_lengths[row] for row in kept],
        left_out=len(lengths) - len(kept),
        closing=closing,
    )


def _mapped(examples: Callable[[], Iterator[Example]], folder: Path) -> Any:
    """The examples in Arrow files of ``folder``, four bytes a token and four a label; written unless they are there."""
    import datasets  # only here: it loads for seconds, and the driver reads batches

    def rows() -> Iterator[dict[str, Any]]:
        for each in examples():
            yield {"input_ids": each.tokens, "labels": each.labels, "prompt_length": each.prompt_length}

    numbers = datasets.List(datasets.Value("int32"))
    features = {"input_ids": numbers, "labels": numbers, "prompt_length": datasets.Value("int32")}
    datasets.disable_progress_bars()
    try:
        return datasets.Dataset.from_generator(
            rows, features=datasets.Features(features), cache_dir=str(folder), fingerprint="corpus"
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise (error.__cause__ or error) from None


def mark_trained(tokenizer: Any, example: Example) -> str:
    """The example's text with its trained tokens between ⟦ and ⟧."""
    prompt, answer = example.tokens[: example.prompt_length], example.tokens[example.prompt_length :]
    return f"{tokenizer.decode(prompt)}⟦{tokenizer.decode(answer)}⟧"


EXCHANGE: Conversation = [
    {"role": "user", "content": "What is two plus two?"},
    {"role": "assistant", "content": "It is four."},
]
"""A question and its answer, by which a chat template is judged."""

_THOUGHT = "(think(?:ing)?|thought|reasoning)"
_OPENED = re.compile(rf"<(?:{_THOUGHT}>\s*(?:</\1>\s*)?|\|channel>thought\s*<channel\|>\s*)\Z")
"""The thought at the end of a generation prompt: to be written, or empty."""
_EMPTY = re.compile(rf"\s*(?:<{_THOUGHT}>\s*)?</{_THOUGHT}>\s*")
"""The thought at the beginning of an answer."""


_MARK = re.compile(r"<[^<>\s]+>|\[/?INST\]")


def render(tokenizer: Any, conversations: Sequence[Conversation]) -> list[tuple[str, str]]:
    """Each prompt as the student server renders it, and what the student is to write after it.

    Raises:
        ConfigError: what the template makes of an example does not begin with the prompt.
    """
    prompts = tokenizer.apply_chat_template(
        [each[:-1] for each in conversations], tokenize=False, add_generation_prompt=True
    )
    wholes = tokenizer.apply_chat_template(conversations, tokenize=False)
    rendered = []
    for conversation, prompt, whole in zip(conversations, prompts, wholes, strict=True):
        written = _written(prompt, whole)
        if written is None and len(conversation) > 2:
            # Some templates move the system text to whichever turn of the user is last. An answer stays what it is.
            [(_, written)] = render(tokenizer, [conversation[-2:]])
        if written is None:
            at = next(
                place for place, (one, other) in enumerate(zip(prompt, whole + "\0", strict=False)) if one != other
            )
            asked, trained = (f"{text[max(0, at - 20) : at + 60]!r}" for text in (prompt, whole))
            raise errors.ConfigError(
                f"the chat template of {tokenizer.name_or_path} renders an example otherwise than the prompt that the "
                f"student is asked: asked …{asked}, trained …{trained}; {other_template(tokenizer)}"
            )
        rendered.append((prompt, written))
    return rendered


def _written(prompt: str, whole: str) -> str | None:
    """What follows ``prompt`` in ``whole``; nothing where that goes another way."""
    if whole.startswith(prompt):
        return whole.removeprefix(prompt)
    thought = _OPENED.search(prompt)
    if thought is None or not whole.startswith(prompt[: thought.start()]):
        return None
    answer = whole[thought.start() :]
    answer = answer[empty.end() :] if (empty := _EMPTY.match(answer)) else answer
    # What is left open is closed empty: the student is asked to think, and there are no thoughts to train it on.
    return f"\n</{thought[1]}>\n\n{answer}" if thought[1] and "</" not in thought[0] else answer


def check_student(tokenizer: Any, base: Path) -> None:
    """Refuse a student that would be asked otherwise than it is trained, or has tokens without a weight.

    Raises:
        ConfigError: its chat template cannot be trained with, or its tokenizer is larger than its model.
    """
    closing_token(tokenizer)
    [(prompt, written)] = render(tokenizer, [EXCHANGE])
    head = written.partition(EXCHANGE[-1]["content"])[0]
    if head.strip() and prompt == tokenizer.apply_chat_template(EXCHANGE[:-1], tokenize=False):
        raise errors.ConfigError(
            f"the chat template of {tokenizer.name_or_path} has no generation prompt, so that the student would write "
            f"{head!r} before each answer; {other_template(tokenizer)}"
        )
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    size, ids = config.get("vocab_size", math.inf), set(tokenizer.get_vocab().values())
    used = {*_ids(tokenizer, prompt + written), tokenizer.eos_token_id, tokenizer.pad_token_id}
    # Gemma 3 1B has one that only its larger sisters use.
    unused = {token for token, each in tokenizer.added_tokens_decoder.items() if each.special} - used
    if beyond := [token for token in sorted((ids | used) - unused - {None}) if token >= size]:
        raise errors.ConfigError(
            f"the tokenizer of {base} has {max(ids) + 1:,} tokens, the model {size:,} embeddings, and none for "
            f"{tokenizer.convert_ids_to_tokens(beyond[0])!r} ({beyond[0]}); resize them "
            "(`model.resize_token_embeddings(len(tokenizer))` of transformers, and save both), or give the tokenizer "
            "that the model was trained with"
        )


def other_template(tokenizer: Any) -> str:
    """The remedy: the shipped templates that suit the tokenizer, those that use its own tokens first."""
    from jinja2 import TemplateError

    own, suiting = tokenizer.chat_template, list[tuple[bool, str]]()
    tokens = {each.content for each in tokenizer.added_tokens_decoder.values()}
    for name in shipped("jinja"):
        tokenizer.chat_template = (PRESETS / f"{name}.jinja").read_text()
        with suppress(TemplateError):  # without a token that ends an answer
            marks = {*_MARK.findall(tokenizer.apply_chat_template(EXCHANGE, tokenize=False))}
            suiting += [(marks <= {tokenizer.bos_token, tokenizer.eos_token}, name)] if marks <= tokens else []
    tokenizer.chat_template = own
    names = " or ".join(f'"{name}"' for _, name in sorted(suiting))
    return f"set student.chat_template to {names or 'a Jinja file that does not'} (docs/backbones.md)"


def _examples(tokenizer: Any, conversations: Iterable[Conversation], closing: int) -> Iterator[Example]:
    """One example a conversation; without tokens where the server would take a prompt's text for a special token."""
    names = [each.content for each in tokenizer.added_tokens_decoder.values() if each.special]
    special = re.compile("|".join(map(re.escape, names)) or r"(?!)")
    remaining = iter(conversations)
    while batch := list(islice(remaining, _BATCH)):
        rendered = render(tokenizer, batch)
        ids = _ids(tokenizer, [prompt for prompt, _ in rendered] + [prompt + written for prompt, written in rendered])
        for messages, (_, written), prompt_ids, whole_ids in zip(batch, rendered, ids, ids[len(batch) :], strict=False):
            said = messages[-1]["content"].strip()
            if any(special.search(message["content"]) for message in messages[:-1]):
                yield Example([], prompt_length=0)
                continue
            answer_ids = whole_ids[len(prompt_ids) :]
            # Tokens may merge across the boundary, where the server's prompt ends; and the answer's text stays text.
            if whole_ids[: len(prompt_ids)] != prompt_ids or special.search(said):
                before, found, after = written.partition(said or written)
                plain = _ids(tokenizer, found, split_special_tokens=bool(said))
                answer_ids = _ids(tokenizer, before) + plain + _ids(tokenizer, after)
            ends = [place for place, token in enumerate(answer_ids, start=1) if token == closing]
            answer_ids = answer_ids[: ends[-1]] if ends else [*answer_ids, closing]
            yield Example(prompt_ids + answer_ids, len(prompt_ids))


def _ids(tokenizer: Any, text: str | list[str], **settings: bool) -> Any:
    # The template writes the beginning-of-sequence token itself; the tokenizer must not add a second one.
    return tokenizer(text, add_special_tokens=False, **settings)["input_ids"] if text else []


_WINDOW_BATCHES = 8
"""Bundles are cut from this many batches of the stream; more means less padding."""

_BUNDLES = 4
"""Fewest bundles of a batch (where it has as many examples); more means more padding and more chance in a batch."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Every micro-batch of a training: ``groups[i][rank]`` holds the indices of the examples."""

    groups: list[list[list[int]]]
    accumulation: int
    """Groups of one optimizer step; the last step may have fewer."""
    micro_batch_size: int
    """Most examples that a rank holds at a time."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return math.ceil(len(self.groups) / self.accumulation)

    def tokens_by_step(self, lengths: Sequence[int]) -> list[int]:
        """Tokens of each step, padding not counted."""
        return [
            sum(
                lengths[index]
                for group in self.groups[start : start + self.accumulation]
                for cell in group
                for index in cell
            )
            for start in range(0, len(self.groups), self.accumulation)
        ]

    def padding_share(self, lengths: Sequence[int]) -> float:
        """Share of what the ranks compute that is padding, when each micro-batch is padded to its longest example."""
        cells = [[lengths[index] for index in cell] for group in self.groups for cell in group if cell]
        padded = sum(max(cell) * len(cell) for cell in cells)
        return 1 - sum(map(sum, cells)) / padded if padded else 0.0


def plan_batches(
    lengths: Sequence[int], *, epochs: float, batch_size: int, micro_batch_size: int, world_size: int, seed: int
) -> BatchPlan:
    """Plan a training without packing.

    A step has the fewest groups that fit ``micro_batch_size`` examples a rank; where they do not divide ``batch_size``,
    its last group is smaller. The loss is a mean over the tokens of a step, so groups may differ in size.
    """
    accumulation = math.ceil(batch_size / (micro_batch_size * world_size))
    # Whatever divides the batch size: arms of a comparison get sizes that fit, and must be mixed alike.
    bundle_size = max(1, batch_size // max(_BUNDLES, accumulation))
    stream = _stream(len(lengths), epochs, seed)
    batches = _mixed_batches(stream, lengths, batch_size, bundle_size, seed)
    size = math.ceil(batch_size / accumulation)
    groups = [batch[first : first + size] for batch in batches for first in range(0, len(batch), size)]
    cells = [[group[rank::world_size] for rank in range(world_size)] for group in groups]
    return BatchPlan(cells, accumulation, math.ceil(size / world_size))


def plan_packed_batches(
    lengths: Sequence[int], *, epochs: float, batch_size: int, tokens_per_rank: int, world_size: int, seed: int
) -> BatchPlan:
    """Plan a training with packing: a micro-batch is one row of whole examples of at most ``tokens_per_rank`` tokens.

    The examples of a step are those of its batch, whatever their lengths; each rank gets about as many tokens.
    """
    stream = _stream(len(lengths), epochs, seed)
    batches = [stream[start : start + batch_size] for start in range(0, len(stream), batch_size)]
    rows = max(_rows_needed(batch, lengths, tokens_per_rank, world_size) for batch in batches)
    groups: list[list[list[int]]] = []
    for batch in batches:
        cells = _deal(batch, lengths, rows * world_size)
        groups += [cells[row * world_size : (row + 1) * world_size] for row in range(rows)]
    return BatchPlan(groups, rows, max(len(cell) for group in groups for cell in group))


def _mixed_batches(
    stream: Sequence[int], lengths: Sequence[int], batch_size: int, bundle_size: int, seed: int
) -> list[list[int]]:
    """Batches of random bundles of like length, each batch sorted by length; only the last can be short."""
    batches: list[list[int]] = []
    window_size = _WINDOW_BATCHES * batch_size
    for start in range(0, len(stream), window_size):
        window = sorted(stream[start : start + window_size], key=lambda index: lengths[index])
        whole = len(window) // bundle_size * bundle_size
        bundles = [window[first : first + bundle_size] for first in range(0, whole, bundle_size)]
        randomness.derive_rng(seed, "bundles", start).shuffle(bundles)
        mixed = [index for bundle in bundles for index in bundle] + window[whole:]
        batches += [
            sorted(mixed[first : first + batch_size], key=lambda index: lengths[index])
            for first in range(0, len(mixed), batch_size)
        ]
    return batches


def _stream(count: int, epochs: float, seed: int) -> list[int]:
    """Every example of all epochs, each epoch in an order of its own."""
    stream: list[int] = []
    for epoch in range(math.ceil(epochs)):
        order = list(range(count))
        randomness.derive_rng(seed, "order", epoch).shuffle(order)
        stream += order
    return stream[: max(1, round(count * epochs))]


def _rows_needed(batch: Sequence[int], lengths: Sequence[int], tokens_per_rank: int, world_size: int) -> int:
    rows = math.ceil(sum(lengths[index] for index in batch) / (tokens_per_rank * world_size))
    while max(sum(lengths[i] for i in cell) for cell in _deal(batch, lengths, rows * world_size)) > tokens_per_rank:
        rows += 1
    return rows


def _deal(batch: Sequence[int], lengths: Sequence[int], cells: int) -> list[list[int]]:
    """Longest first, each to the cell with the fewest tokens: the cells come out nearly equal."""
    dealt: list[list[int]] = [[] for _ in range(cells)]
    filled = [0] * cells
    for index in sorted(batch, key=lambda index: (-lengths[index], index)):
        least = filled.index(min(filled))
        dealt[least].append(index)
        filled[least] += lengths[index]
    return dealt


@dataclass(frozen=True, slots=True)
class PlannedTraining:
    """What a job trains on, and in which step."""

    job: TrainingJob
    tokenizer: Any
    corpus: Corpus
    plan: BatchPlan

    @property
    def padding_share(self) -> float:
        """Share of what the ranks compute that is padding."""
        return 0.0 if self.job.training.packing else self.plan.padding_share(self.corpus.lengths)

    def count(self) -> TrainingCount:
        """What it comes to."""
        corpus = self.corpus
        answers = [whole - prompt for whole, prompt in zip(corpus.lengths, corpus.prompt_lengths, strict=True)]
        return TrainingCount(
            steps=self.plan.steps,
            batch_size=self.job.training.batch_size,
            epochs=self.job.epochs,
            examples=len(corpus.lengths),
            left_out=corpus.left_out,
            trained_tokens=sum(self.plan.tokens_by_step(answers)),
            total_tokens=sum(self.plan.tokens_by_step(corpus.lengths)),
        )


def plan_training(job: TrainingJob, world_size: int, folder: Path | None = None) -> PlannedTraining:
    """The examples and batches of a job; ``world_size`` changes neither the examples of a batch nor its number.

    The tokens lie in ``folder``, as `encode` says.

    Raises:
        ConfigError: the base or the mixture cannot be trained with.
    """
    tokenizer, training = load_tokenizer(job.base, job.chat_template), job.training
    corpus = encode(tokenizer, read_conversations(job.mixture), max_length=training.max_length, folder=folder)
    common: dict[str, Any] = {
        "epochs": job.epochs,
        "batch_size": training.batch_size,
        "world_size": world_size,
        "seed": job.seed,
    }
    if training.packing:
        tokens = training.micro_batch_size * training.max_length
        plan = plan_packed_batches(corpus.lengths, tokens_per_rank=tokens, **common)
    else:
        plan = plan_batches(corpus.lengths, micro_batch_size=training.micro_batch_size, **common)
    return PlannedTraining(job, tokenizer, corpus, plan)


def _count() -> int:
    """Print what each job of the standard input comes to, in the child."""
    jobs = [TrainingJob(**each) for each in json.load(sys.stdin)]
    print(json.dumps([asdict(plan_training(job, world_size=1).count()) for job in jobs]))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(_count))
