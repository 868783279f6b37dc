"""What is trained, and in which step: from messages to tokens with their loss mask, and to batches. Loads no torch.

An example is a conversation, or a pair of them that differ in their answers, the better one first. The loss is on the
last assistant message and its closing token. What stands before that message is the prompt,
rendered and tokenized as the student server does it. A thought that only the generation prompt opens is closed empty
before the answer. Text that a chat template puts after the closing token is left off: the student never writes it. An
answer's text becomes no special token. In a prompt the server would read it as one: such an example is left out.

The examples of all epochs are one stream in a seeded order; every batch is full but the last, and no example is lost or
cut. A batch is made of a few *bundles* of examples of like length, drawn at random: bundles make padding small, and
several of them keep a batch from being of one length, and so of one kind of task, whose gradient serves that kind only.
A *group* is what all ranks hold at one time. The trainer counts steps and tokens by these batches, and so does who
wants to know before: they agree to the token. For the latter a child runs this module (a job as JSON on its standard
input, its count as one line on its output), which loads the tokenizer. Given a checkpoint, and maybe
a chat template, the child renders a conversation for the student instead (`chat.render_sample`).
"""

import json
import math
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.compute as pc

from tapir_core import errors, randomness, thoughts
from tapir_core.config import OnPolicy, Prefer
from tasks.engines.training import chat
from tasks.engines.training.launch import TrainingCount, TrainingJob, exit_code

IGNORED = -100
"""The label of a token without loss."""

SCORES = ("sampled", "teacher", "top_ids", "top")
"""What an `Example` has of its scores; columns of a corpus with rollouts."""

_BATCH = 256

Lengths = npt.NDArray[np.int32]
"""Tokens, one number an example."""


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenized conversation; the tokens from ``prompt_length`` on are trained.

    Of an answer that the student sampled those that the teacher scored, all or the first: natural logarithms.
    """

    tokens: list[int]
    prompt_length: int
    sampled: list[float] = field(default_factory=list)
    """q: of each scored token, when the student sampled it."""
    teacher: list[float] = field(default_factory=list)
    """t: the teacher's."""
    top_ids: list[list[int]] = field(default_factory=list)
    """Of each place the tokens that the teacher finds likeliest."""
    top: list[list[float]] = field(default_factory=list)
    """The teacher's of these."""

    @property
    def labels(self) -> list[int]:
        """The tokens, with `IGNORED` in place of what is not trained."""
        end = self.prompt_length + len(self.teacher) if self.teacher else len(self.tokens)
        return [
            *[IGNORED] * self.prompt_length,
            *self.tokens[self.prompt_length : end],
            *[IGNORED] * (len(self.tokens) - end),
        ]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The examples that fit, in memory-mapped files, and how many did not; a data set for torch's loader."""

    rows: Any
    """A data set of Hugging Face: `input_ids` and `prompt_length` of each conversation, those of a pair one after the
    other, and last a filler that is all prompt."""
    lengths: Lengths
    """Tokens of each example."""
    prompt_lengths: Lengths
    """Those of them that are not trained."""
    answer_lengths: Lengths
    """Tokens with a label: of an answer, of a pair the better one."""
    held_lengths: Lengths
    """Tokens that an example takes where it is padded: those of a pair are as long as the longer one."""
    left_out: int
    closing: int
    """Id of the token that ends an answer."""
    width: int = 1
    """Conversations of an example: 2 of a pair."""
    rollouts: int = 0
    """So many of the first are the student's own answers."""

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation, padded: a number of Python's, since one of 32 bits counts no bytes."""
        return int(self.held_lengths.max()) // self.width

    def example(self, index: int, answer: int = 0) -> Example:
        """One of them, from 0, with its first or second answer."""
        row = self.rows[index * self.width + answer]
        return Example(row["input_ids"], row["prompt_length"])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, examples: Sequence[int]) -> list[dict[str, Any]]:
        """The conversations of these examples, each with its labels and its place as `number`; for none the filler."""
        places = (example * self.width + each for example in examples for each in range(self.width))
        numbers = [*places] or [len(self.rows) - 1]
        found = self.rows.__getitems__(numbers)
        learnt = [Example(row["input_ids"], row.pop("prompt_length"), teacher=row.get("teacher", [])) for row in found]
        return [
            row | {"labels": each.labels, "number": number}
            for row, each, number in zip(found, learnt, numbers, strict=True)
        ]


def read_conversations(files: Sequence[Path], *, pairs: bool = False) -> Iterator[chat.Conversation]:
    """The ``messages`` of every row, in order; nothing is read before the first is asked for.

    Of ``pairs`` each is followed by the same with the answer ``rejected`` in place of the last.

    Raises:
        ConfigError: a conversation does not end with an answer.
    """
    columns = ["messages", *(["rejected"] if pairs else [])]
    parts = (part for file in files for part in pl.read_parquet(file, columns=columns).iter_slices(_BATCH))
    for number, (messages, *rejected) in enumerate(row for part in parts for row in part.iter_rows()):
        roles = [message["role"] for message in messages or []]
        if len(roles) < 2 or roles[-1] != "assistant":
            raise errors.ConfigError(
                f"row {number} of the mixture ({files[0].parent}) has the roles {roles}; a training example is a "
                "prompt and, last, an assistant message"
            )
        yield messages
        yield from ([*messages[:-1], {**messages[-1], "content": answer}] for answer in rejected)


def read_rollouts(rollouts: Sequence[Path], scores: Sequence[Path]) -> Iterator[Example]:
    """The student's own answers, each with its scores, in order; a rollout that has none is left out."""
    names = ["instruction_id", "sample"]
    for drawn, scored in zip(rollouts, scores, strict=True):
        told = pl.read_parquet(scored).rename({"log_probs": "teacher"})
        rows = pl.read_parquet(drawn).join(told, on=names, how="inner", validate="1:1", maintain_order="left")
        for row in rows.iter_rows(named=True):
            teacher = row["teacher"]
            yield Example(
                [*row["prompt_ids"], *row["token_ids"]] if teacher else [],
                len(row["prompt_ids"]),
                row["log_probs"][: len(teacher)],
                teacher,
                row["top_ids"],
                row["top_log_probs"],
            )


def encode(
    tokenizer: Any,
    conversations: Iterable[chat.Conversation],
    *,
    max_length: int,
    folder: Path | None = None,
    width: int = 1,
    masked: bool = False,
    rollouts: Callable[[], Iterable[Example]] | None = None,
) -> Corpus:
    """Tokenize; an example longer than ``max_length``, or with a special token's text in its prompt, is left out.

    So is a pair of which one is too long.

    Args:
        tokenizer: With a chat template.
        conversations: Read by the process that tokenizes, and by no other.
        max_length: Most tokens of an example.
        folder: Where the tokens lie. The first process that comes writes them; the others wait, and map the same files.
            Without it they lie in a file of this process, which leaves nothing behind.
        width: Conversations of an example.
        masked: Whether thoughts stand there and are not learnt.
        rollouts: Gives the student's own answers, which come before the others.

    Raises:
        ConfigError: no example is left, one has no answer to train, or the chat template renders it otherwise.
    """
    closing = chat.closing_token(tokenizer)

    def made() -> Iterator[dict[str, Any]]:
        own, filler = rollouts() if rollouts else (), Example([closing] * 2, prompt_length=2)
        for each in chain(own, _examples(tokenizer, conversations, closing, masked=masked), [filler]):
            row = {"input_ids": each.tokens, "prompt_length": each.prompt_length}
            yield row | ({name: getattr(each, name) for name in SCORES} if rollouts else {})

    # A mapped file can be read when it has no name any more.
    with nullcontext(folder) if folder else TemporaryDirectory() as place:
        rows = _mapped(made, Path(place), scored=rollouts is not None)
    return _fitting(rows, max_length=max_length, closing=closing, width=width)


def _fitting(rows: Any, *, max_length: int, closing: int, width: int) -> Corpus:
    """The examples of mapped ``rows`` that can be trained on; the last row is the filler."""

    def of(column: str, count: Callable[[Any], Any] = pc.list_value_length) -> Lengths:
        return np.asarray(count(rows.data.column(column)), dtype=np.int32)[:-1].reshape(-1, width)

    lengths, prompt_lengths = of("input_ids"), of("prompt_length", lambda column: column)
    scored = of("teacher") if "teacher" in rows.column_names else np.zeros_like(lengths)
    fits = ((lengths > 0) & (lengths <= max_length)).all(axis=1)
    if not fits.any():
        raise errors.ConfigError(
            f"none of the {len(lengths)} examples fits training.max_length = {max_length}; "
            f"the shortest has {min(lengths[lengths > 0].tolist(), default=0)} tokens, and {(lengths == 0).sum()} have "
            "the text of a special token in their prompt, or an answer that the chat template does not write as it is"
        )
    lengths, prompt_lengths, scored = lengths[fits], prompt_lengths[fits], scored[fits]
    if (bare := (lengths == prompt_lengths + 1) & (scored == 0)).any():
        raise errors.ConfigError(
            f"example {bare.any(axis=1).argmax()} trains 1 tokens, the closing token {closing}, and no answer before "
            "it; look at its messages and at the chat template"
        )
    return Corpus(
        rows=rows.select(np.append(np.flatnonzero(np.repeat(fits, width)), len(rows) - 1)),
        lengths=lengths.sum(axis=1, dtype=np.int32),
        prompt_lengths=prompt_lengths.sum(axis=1, dtype=np.int32),
        answer_lengths=np.where(scored > 0, scored, lengths - prompt_lengths)[:, 0],
        held_lengths=width * lengths.max(axis=1),
        left_out=int((~fits).sum()),
        closing=closing,
        width=width,
        rollouts=int((scored[:, 0] > 0).sum()),
    )


def _mapped(rows: Callable[[], Iterator[dict[str, Any]]], folder: Path, *, scored: bool) -> Any:
    """The rows in Arrow files of ``folder``, four bytes a token and a score; made unless they are there."""
    import datasets  # only here: it loads for seconds, and the driver reads batches

    numbers = datasets.List(datasets.Value("int32"))
    features = datasets.Features(input_ids=numbers, prompt_length=datasets.Value("int32"))
    if scored:
        words = datasets.List(datasets.Value("float32"))
        features |= {"sampled": words, "teacher": words, "top_ids": datasets.List(numbers), "top": datasets.List(words)}
    datasets.disable_progress_bars()
    try:
        return datasets.Dataset.from_generator(rows, features=features, cache_dir=str(folder), fingerprint="corpus")
    except datasets.exceptions.DatasetGenerationError as error:
        raise (error.__cause__ or error) from None


def mark_trained(tokenizer: Any, example: Example) -> str:
    """The example's text with its trained tokens between ⟦ and ⟧."""
    prompt, answer = example.tokens[: example.prompt_length], example.tokens[example.prompt_length :]
    return f"{tokenizer.decode(prompt)}⟦{tokenizer.decode(answer)}⟧"


def _examples(
    tokenizer: Any, conversations: Iterable[chat.Conversation], closing: int, *, masked: bool = False
) -> Iterator[Example]:
    """One example a conversation; without tokens where the server would take a prompt's text for a special token.

    ``masked`` leaves thoughts unlearnt.
    """
    special = chat.special_texts(tokenizer)
    remaining = iter(conversations)
    while batch := list(islice(remaining, _BATCH)):
        rendered = [*chat.render(tokenizer, batch)]
        if masked:
            rendered = [
                chat.unlearnt(*each, messages[-1]["content"]) for each, messages in zip(rendered, batch, strict=True)
            ]
        ids = chat.token_ids(
            tokenizer, [prompt for prompt, _ in rendered] + [prompt + written for prompt, written in rendered]
        )
        for messages, (_, written), prompt_ids, whole_ids in zip(batch, rendered, ids, ids[len(batch) :], strict=False):
            said = messages[-1]["content"].strip()
            # Where the prompt opens the thought, or it is not learnt, the answer alone is kept as text below.
            thought, answer = ("", said) if said in written else thoughts.split(said)
            if not written or any(map(special.search, [thought, *(each["content"] for each in messages[:-1])])):
                yield Example([], prompt_length=0)
                continue
            answer_ids = whole_ids[len(prompt_ids) :]
            # Tokens may merge across the boundary, where the server's prompt ends; and the answer's text stays text.
            if whole_ids[: len(prompt_ids)] != prompt_ids or special.search(said):
                before, found, after = written.partition(answer or written)
                plain = chat.token_ids(tokenizer, found, split_special_tokens=bool(said))
                answer_ids = chat.token_ids(tokenizer, before) + plain + chat.token_ids(tokenizer, after)
            ends = [place for place, token in enumerate(answer_ids, start=1) if token == closing]
            answer_ids = answer_ids[: ends[-1]] if ends else [*answer_ids, closing]
            yield Example(prompt_ids + answer_ids, len(prompt_ids))


_WINDOW_BATCHES = 8
"""Bundles are cut from this many batches of the stream; more means less padding."""

_BUNDLES = 4
"""Fewest bundles of a batch (where it has as many examples); more means more padding and more chance in a batch."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Every micro-batch of a training: ``groups[i][rank]`` holds the indices of the examples."""

    groups: Sequence[Sequence[Sequence[int]]]
    """In arrays: of a million examples, lists of numbers would take each rank 80 MB."""
    accumulation: int
    """Groups of one optimizer step; the last step may have fewer."""
    micro_batch_size: int
    """Most examples that a rank holds at a time."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return math.ceil(len(self.groups) / self.accumulation)

    def tokens_by_step(self, lengths: Lengths) -> list[int]:
        """Tokens of each step, padding not counted."""
        return [
            sum(int(lengths[cell].sum()) for group in self.groups[start : start + self.accumulation] for cell in group)
            for start in range(0, len(self.groups), self.accumulation)
        ]

    def padding_share(self, lengths: Lengths, held: Lengths) -> float:
        """Share of what the ranks compute that is padding, when each micro-batch is padded to its longest example.

        ``held`` has what an example takes alone.
        """
        cells = [cell for group in self.groups for cell in group if cell]
        padded = sum(int(held[cell].max()) * len(cell) for cell in cells)
        return 1 - sum(int(lengths[cell].sum()) for cell in cells) / padded if padded else 0.0


def plan_batches(
    lengths: Lengths, *, epochs: float, batch_size: int, micro_batch_size: int, world_size: int, seed: int
) -> BatchPlan:
    """Plan a training without packing.

    A step has the fewest groups that fit ``micro_batch_size`` examples a rank; where they do not divide ``batch_size``,
    its last group is smaller. The loss is a mean over the tokens of a step, so groups may differ in size.
    """
    accumulation = math.ceil(batch_size / (micro_batch_size * world_size))
    # Whatever divides the batch size: arms of a comparison get sizes that fit, and must be mixed alike.
    bundle_size = max(1, batch_size // max(_BUNDLES, accumulation))
    batches = _mixed_batches(_stream(len(lengths), epochs, seed), lengths, batch_size, bundle_size, seed)
    size = math.ceil(batch_size / accumulation)
    groups = [batch[first : first + size] for batch in batches for first in range(0, len(batch), size)]
    cells = [[array("i", group[rank::world_size]) for rank in range(world_size)] for group in groups]
    return BatchPlan(cells, accumulation, math.ceil(size / world_size))


def plan_packed_batches(
    lengths: Lengths, *, epochs: float, batch_size: int, tokens_per_rank: int, world_size: int, seed: int
) -> BatchPlan:
    """Plan a training with packing: a micro-batch is one row of whole examples of at most ``tokens_per_rank`` tokens.

    The examples of a step are those of its batch, whatever their lengths; each rank gets about as many tokens.
    """
    stream = _stream(len(lengths), epochs, seed)
    batches = [stream[start : start + batch_size] for start in range(0, len(stream), batch_size)]
    rows = max(_rows_needed(batch, lengths, tokens_per_rank, world_size) for batch in batches)
    cells = [array("i", cell) for batch in batches for cell in _deal(batch, lengths, rows * world_size)]
    groups = [cells[first : first + world_size] for first in range(0, len(cells), world_size)]
    return BatchPlan(groups, rows, max(map(len, cells)))


def _mixed_batches(
    stream: Sequence[int], lengths: Lengths, batch_size: int, bundle_size: int, seed: int
) -> Iterator[list[int]]:
    """Batches of random bundles of like length, each batch sorted by length; only the last can be short."""
    window_size = _WINDOW_BATCHES * batch_size
    for start in range(0, len(stream), window_size):
        window = sorted(stream[start : start + window_size], key=lambda index: lengths[index])
        whole = len(window) // bundle_size * bundle_size
        bundles = [window[first : first + bundle_size] for first in range(0, whole, bundle_size)]
        randomness.derive_rng(seed, "bundles", start).shuffle(bundles)
        mixed = [index for bundle in bundles for index in bundle] + window[whole:]
        for first in range(0, len(mixed), batch_size):
            yield sorted(mixed[first : first + batch_size], key=lambda index: lengths[index])


def _stream(count: int, epochs: float, seed: int) -> list[int]:
    """Every example of all epochs, each epoch in an order of its own."""
    stream: list[int] = []
    for epoch in range(math.ceil(epochs)):
        order = list(range(count))
        randomness.derive_rng(seed, "order", epoch).shuffle(order)
        stream += order
    return stream[: max(1, round(count * epochs))]


def _rows_needed(batch: Sequence[int], lengths: Lengths, tokens_per_rank: int, world_size: int) -> int:
    rows = math.ceil(sum(lengths[index] for index in batch) / (tokens_per_rank * world_size))
    while max(sum(lengths[i] for i in cell) for cell in _deal(batch, lengths, rows * world_size)) > tokens_per_rank:
        rows += 1
    return rows


def _deal(batch: Sequence[int], lengths: Lengths, cells: int) -> list[list[int]]:
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
        return (
            0.0 if self.job.training.packing else self.plan.padding_share(self.corpus.lengths, self.corpus.held_lengths)
        )

    def once(self, world_size: int) -> BatchPlan:
        """Every example once, in micro-batches as they are trained."""
        return _plan(self.job, self.corpus, world_size, 1.0)

    def count(self) -> TrainingCount:
        """What it comes to."""
        corpus, answers = self.corpus, self.corpus.answer_lengths
        if corpus.width > 1:
            answers = corpus.lengths - corpus.prompt_lengths
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
    tokenizer = chat.load_tokenizer(job.base, job.chat_template)
    width = 2 if isinstance(job.objective, Prefer) else 1
    conversations: Iterable[chat.Conversation] = read_conversations(job.mixture, pairs=width == 2)
    more: dict[str, Any] = {"masked": job.training.thoughts == "mask"}
    if isinstance(job.objective, OnPolicy):
        conversations = conversations if job.objective.imitation else ()
        more |= {"rollouts": lambda: read_rollouts(job.rollouts, job.scores)}
    corpus = encode(tokenizer, conversations, max_length=job.training.max_length, folder=folder, width=width, **more)
    return PlannedTraining(job, tokenizer, corpus, _plan(job, corpus, world_size, job.epochs))


def _plan(job: TrainingJob, corpus: Corpus, world_size: int, epochs: float) -> BatchPlan:
    training = job.training
    common: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": training.batch_size,
        "world_size": world_size,
        "seed": job.seed,
    }
    if training.packing:
        tokens = max(training.micro_batch_size * training.max_length, int(corpus.lengths.max()))
        return plan_packed_batches(corpus.lengths, tokens_per_rank=tokens, **common)
    # The conversations of a pair are held together.
    return plan_batches(
        corpus.held_lengths, micro_batch_size=max(1, training.micro_batch_size // corpus.width), **common
    )


def main(*paths: str) -> None:
    """In the child: print what the job of the standard input comes to; or, of a student in a folder, what it is asked,
    and with conversations the ids of each and where its answer begins.
    """
    given = sys.stdin.read()
    if paths:
        # A tokenizer needs no torch, which takes longer to load than everything else.
        sys.modules["torch"] = None  # type: ignore[assignment]
    if paths and given:
        tokenizer = chat.load_tokenizer(*map(Path, paths))
        made = _examples(tokenizer, json.loads(given), chat.closing_token(tokenizer))
        print(json.dumps([(each.tokens, each.prompt_length) for each in made]))
    elif paths:
        print(json.dumps(chat.render_sample(*map(Path, paths))))
    else:
        print(json.dumps(asdict(plan_training(TrainingJob(**json.loads(given)), world_size=1).count())))


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(*sys.argv[1:])))
