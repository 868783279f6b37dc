"""What is known before a run beside its configuration: its pool and prompts, what the store holds, earlier runs' times.

Reads the files of the configuration, the store and the runs of the same root; asks nobody and writes nothing. What is
not there, or belongs to other models, is left out. Tokens of prompts are counted on a sample of the pool; the requests
of benchmarks exactly: every turn and every judgment of the files is made up with a placeholder for the student's
answers.

Limits: a sample's mean stands for the pool, and new instructions are taken to be as long as those of the pool. Answers
that stand in a prompt are counted by their expected length. Those to benchmarks that stay the same from round to round,
or equal the baseline's, are paid once or not at all, and count in full here; a student that gives no answer is not
judged; where nobody judges, only the questions are known. Tokens are counted without a tokenizer, by characters: an
estimate for budgets, not for context limits. The rates lie between those of older byte-pair tokenizers (50,000 entries)
and newer ones (200,000): pages of English and code come out within about 20 % of both, other writings can be off by
half with an older one, and so can a single line.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import polars as pl

from tapir_core.calls import Answer, AnswerStore, Message, Outcome, Request, Role
from tapir_core.config import ModelIdentity, RunConfig, Sampling
from tapir_core.curriculum import Labelling, refinement_prompt_name, render_expansion, render_refinement
from tapir_core.data.decontamination import EvaluationQuestions
from tapir_core.data.readers import heldout_questions, read_questions
from tapir_core.errors import TapirError
from tapir_core.estimate.workload import BenchmarkSize, Pool, expected_shares
from tapir_core.evaluation.benchmark import Exchange, exchanges_of, judging
from tapir_core.judging import mode_of
from tapir_core.paths import BACKBONE
from tapir_core.prompts import Prompt
from tapir_core.run_folder import RunFolder, runs_of
from tapir_core.sources import read_heldout_of, read_pool_of
from tapir_core.stages import StageAt, lines_of_round, lines_once
from tapir_core.standin.families import recognise
from tapir_core.summary import RunReader

_ANSWERED_BY: Mapping[str, Role] = {"teacher": "teach", "student": "answer"}

MESSAGE_TOKENS = 5
"""What a chat template adds for one message."""

_KINDS = [
    (re.compile("[A-Za-z]+"), 4.4),  # letters of English
    (re.compile("[\u00c0-\u024f\u1e00-\u1eff]+"), 0.5),  # letters with accents, whose words are split more finely
    (re.compile("[0-9]+"), 2.0),
    (re.compile(r"[!-/:-@\[-`{-~]+"), 1.4),  # signs
    (re.compile("[\u0370-\u052f]+"), 2.4),  # Greek, Cyrillic
    (re.compile("[\u0590-\u08ff]+"), 2.0),  # Hebrew, Arabic
    (re.compile("[\u0900-\u109f]+"), 1.6),  # writings of India and its east
    # Chinese, Japanese, Korean
    (re.compile("[\u1100-\u11ff\u3001-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]+"), 1.2),
    (re.compile(".+", re.DOTALL), 0.5),  # all others: signs, emoji and rare writings take two tokens and more each
]
"""Kind of characters, and how many of it make a token."""
_BLANK = re.compile(r"\s+")
_NEW_LINES = re.compile(r"\n+")

_FEWEST_LABELS = 30
"""Known labels from which the shares of the pool are taken."""
_LOOKED_AT = 2000
"""Stored answers that a mean length is taken of, at most."""
_FEWEST = 20
"""Fewer say too little."""
_RUNS = 3
"""Earlier runs that are looked at, the latest first."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of the pool."""

    text: str
    system: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Tokens of a prompt on average, by role, without the answers that stand in it."""

    fixed: Mapping[Role, float]
    instruction: float
    """Tokens of an instruction alone."""
    answers: Mapping[Role, tuple[Role, ...]]
    """Whose answers stand in the prompt of a role; pointwise, the teacher's stands for the student's too."""

    def of(self, role: Role, completion_tokens: Mapping[Role, float]) -> float:
        """Tokens of a prompt whose answers are as long as ``completion_tokens`` says."""
        return self.fixed[role] + sum(completion_tokens[each] for each in self.answers.get(role, ()))


@dataclass(frozen=True, slots=True)
class KnownLength:
    """How long a model's replies in a role were."""

    tokens: float
    """Completion tokens on average."""
    answers: int
    """Stored answers that were looked at."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measured on the sample, found in the store, or seen in earlier runs of the same root."""

    prompts: PromptTokens
    sampled: int
    """Instructions of the pool that were rendered."""
    lengths: Mapping[tuple[Role, ModelIdentity], KnownLength] = field(default_factory=dict)
    """Of the replies of one model in one role."""
    benchmarks: Mapping[str, BenchmarkSize] = field(default_factory=dict)
    """What the benchmarks of each round ask of one student, as their files say."""
    judgments: Mapping[str, KnownLength] = field(default_factory=dict)
    """Benchmark → of its judge's replies to its prompts."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage → seconds of a call that an earlier run with the same models paid for, concurrency included; of `train`
    seconds of an example."""


def label_request(config: RunConfig, prompt: Prompt, instruction: Instruction) -> Request:
    """The request for the task type of an instruction, as stage `label` makes it."""
    label = Labelling(config.teacher.label_replies)
    chat = (Message("user", label.render(prompt, instruction.text)),)
    return replace(_request(config, "label", chat, config.teacher.labelling), schema=label.schema)


def teach_request(config: RunConfig, instruction: Instruction) -> Request:
    """The request for the plain answer to an instruction, as stage `teach` makes it."""
    return _request(config, "teach", _chat(instruction), config.teacher.answering)


def measure_prompts(
    config: RunConfig,
    prompts: Mapping[str, Prompt],
    sample: Sequence[Instruction],
    natural: Mapping[str, float] | None = None,
) -> PromptTokens:
    """Render every prompt of the run on a sample of its pool and count; ``natural`` are the pool's shares, if known."""
    shares = expected_shares(config, natural, skew=0)
    judge, mode = config.judge, mode_of(config.judge)
    unanswered = [
        {"instruction": each.text, "system": each.system, "reference": each.reference, "teacher": "", "student": ""}
        for each in sample
    ]
    judged = [mode.render(prompts[judge.prompt], row, mode.places(judge)[0]) for row in unanswered]
    chats = [_chat(each) for each in sample]
    asked = _mean([sum(estimate_tokens(message.content) + MESSAGE_TOKENS for message in chat) for chat in chats])
    label = Labelling(config.teacher.label_replies)
    labels = [label.render(prompts["label"], each.text) for each in sample]
    seeds = [render_expansion(prompts["expand"], each.text, max(shares, key=shares.__getitem__)) for each in sample]
    fixed: dict[Role, float] = {
        "label": mean_tokens(labels) + MESSAGE_TOKENS,
        "teach": asked,
        "answer": asked,
        "judge": mean_tokens(judged) + MESSAGE_TOKENS,
        "expand": mean_tokens(seeds) + MESSAGE_TOKENS,
        "refine": _refinement_tokens(prompts, sample, shares) + MESSAGE_TOKENS,
    }
    shown: dict[Role, tuple[Role, ...]] = {
        "judge": tuple(_ANSWERED_BY[each] for each in mode.shown),
        "refine": ("teach",),
    }
    return PromptTokens(fixed, mean_tokens(each.text for each in sample), shown)


def _refinement_tokens(
    prompts: Mapping[str, Prompt], sample: Sequence[Instruction], shares: Mapping[str, float]
) -> float:
    """The prompts of the three families, by what the target shares want of each."""
    by_prompt = defaultdict[str, float](float)
    for task_type, share in shares.items():
        by_prompt[refinement_prompt_name(task_type)] += share
    return sum(
        share * mean_tokens(render_refinement(prompts[name], each.text, each.system, "") for each in sample)
        for name, share in by_prompt.items()
    )


def _chat(instruction: Instruction) -> tuple[Message, ...]:
    user = Message("user", instruction.text)
    return (Message("system", instruction.system), user) if instruction.system else (user,)


def _request(config: RunConfig, role: Role, messages: tuple[Message, ...], sampling: Sampling) -> Request:
    voice = config.teacher.endpoint.answers_as("teacher")
    return Request(role, messages, voice.model, voice.identity, sampling)


def measure_benchmarks(config: RunConfig, prompts: Mapping[str, Prompt]) -> dict[str, BenchmarkSize]:
    """Benchmark of each round → what it asks, read from its files.

    Raises:
        ConfigError: a file cannot be read, is wrong, or lacks what another one asks for.
    """
    judged = config.evaluation.judged
    return {
        name: _measure(config, name, prompts) if name in judged else _measure_marked(config, name)
        for name in config.evaluation.each_round
    }


def _measure(config: RunConfig, name: str, prompts: Mapping[str, Prompt]) -> BenchmarkSize:
    benchmark = judging(config, name)
    items = benchmark.items()
    # A placeholder stands for the student's answers.
    exchanges = exchanges_of(items, items.select("question_id", "turn", response=pl.lit("-")))
    games = [game for each in exchanges for game in benchmark.games(each, prompts) if game.text is not None]
    asked = [tokens for each in exchanges for tokens in _answer_prompts(each)]
    return BenchmarkSize(
        questions=len(exchanges),
        answers=items.height,
        judgments=len(games),
        answer_prompt_tokens=_mean(asked),
        earlier_answers=_mean([turn for each in exchanges for turn in range(len(each.turns))]),
        judge_prompt_tokens=mean_tokens(game.text or "" for game in games) + MESSAGE_TOKENS,
        # A judgment on a turn shows the answers to all turns up to it.
        judged_answers=_mean([game.turn for game in games]),
    )


def _measure_marked(config: RunConfig, name: str) -> BenchmarkSize:
    """Of what is marked without a call: its prompts are taken to be the questions of its file."""
    asked = read_questions({name: config.evaluation.benchmarks[name]}).filter(turn=1)["question"]
    return BenchmarkSize(len(asked), len(asked), 0, mean_tokens(asked) + MESSAGE_TOKENS, 0.0, 0.0, 0.0)


def _answer_prompts(exchange: Exchange) -> Iterator[int]:
    """Tokens of the prompt of each turn: its question after the earlier ones, each with a message for its answer."""
    return accumulate(
        estimate_tokens(turn.question) + MESSAGE_TOKENS * (2 if number else 1)
        for number, turn in enumerate(exchange.turns)
    )


def estimate_tokens(text: str) -> int:
    """About how many tokens ``text`` has: 0 for an empty text, at least 1 for any other.

    A blank between words belongs to the word after it and costs nothing; new lines are a token for each run of them.
    """
    if not text:
        return 0
    tokens, rest = float(len(_NEW_LINES.findall(text))), _BLANK.sub("", text)
    for kind, chars_per_token in _KINDS:
        others = kind.sub("", rest)
        tokens += (len(rest) - len(others)) / chars_per_token
        rest = others
    return max(1, math.ceil(tokens))


def mean_tokens(texts: Iterable[str]) -> float:
    """Tokens of a text on average; 0 without any."""
    return _mean([estimate_tokens(text) for text in texts])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def read_pool(config: RunConfig, prompt: Prompt, url: str) -> tuple[list[Instruction], Pool]:
    """The pool that stage `pool` will make, and what is known of it; ``prompt`` labels it, ``url`` is the store.

    What holds an evaluation question is left out, as the run will leave it out.

    Raises:
        ConfigError: a file cannot be read, or has bad rows.
    """
    data, seed = config.data, config.run.seed
    rows = read_pool_of(data.pool, data, seed).rows
    heldout = None if data.heldout is None else read_heldout_of(data.heldout, data, seed).rows
    asked = [] if heldout is None else [heldout_questions(heldout)]
    questions = pl.concat([*asked, read_questions(config.evaluation.benchmarks)])
    contaminated = EvaluationQuestions(questions, config.evaluation.decontamination).find(rows)
    rows = rows.join(contaminated, on="instruction_id", how="anti", maintain_order="left")
    pool = [Instruction(*row) for row in rows.select("instruction", "system", "reference").iter_rows()]
    return pool, _known(config, pool, 0 if heldout is None else heldout.height, prompt, url)


def _known(config: RunConfig, pool: list[Instruction], heldout_rows: int, prompt: Prompt, url: str) -> Pool:
    labels: dict[str, Outcome] = {}
    answered: set[str] = set()
    if store_exists(url):
        with AnswerStore(url, patient=False) as store:
            labels = store.lookup([label_request(config, prompt, each).key for each in pool])
            answered = store.known([teach_request(config, each).key for each in pool])
    parse = Labelling(config.teacher.label_replies).parse
    parsed = (parse(reply.text) for reply in labels.values() if isinstance(reply, Answer))
    task_types = [each for each in parsed if isinstance(each, str)]
    usable_share = None
    if config.teacher.endpoint.is_standin:
        # What the stand-in will say is known without asking it.
        task_types = [problem.task_type for each in pool if (problem := recognise(each.text))]
        usable_share = len(task_types) / len(pool) if pool else None
    shares = {name: count / len(task_types) for name, count in Counter(task_types).items()}
    natural = shares if len(task_types) >= _FEWEST_LABELS else None
    return Pool(len(pool), heldout_rows, natural, usable_share, len(labels), len(answered))


def store_exists(url: str) -> bool:
    """Whether there is something to look up; a file that is not there need not be made for that."""
    return not url.startswith("sqlite:///") or Path(url.removeprefix("sqlite:///")).exists()


def stored_lengths(url: str, asked: Mapping[Key, tuple[Role, ModelIdentity, Sequence[str]]]) -> dict[Key, KnownLength]:
    """Mean completion tokens of stored answers, where there are enough of them; nothing where there is no store.

    Args:
        url: the store.
        asked: what is wanted → the role, the model, and the versions of the prompts where only some count.
    """
    from sqlalchemy import func, select

    from tapir_core.calls.store_tables import answers, open_engine

    if not store_exists(url):
        return {}
    engine, found = open_engine(url), {}
    try:
        with engine.connect() as connection:
            for key, (role, voice, versions) in asked.items():
                alike = {"role": role, "status": "answer", "model": voice.model, "identity": voice.identity}
                of_prompts = [answers.c.prompt_version.in_(versions)] if versions else []
                some = select(answers.c.completion_tokens).filter_by(**alike).where(*of_prompts).limit(_LOOKED_AT)
                count, mean = connection.execute(select(func.count(), func.avg(some.subquery().c[0]))).one()
                if count >= _FEWEST:
                    found[key] = KnownLength(float(mean), int(count))
    finally:
        engine.dispose()
    return found


def past_seconds(config: RunConfig) -> dict[str, float]:
    """Stage → seconds of a paid call (of `train`: of an example), over the latest runs of the root with its models."""
    seconds, units = defaultdict[str, float](float), defaultdict[str, float](float)
    for run in _runs_alike(config):
        same_benchmarks = _benchmark_voices(run.config) == _benchmark_voices(config)
        for name, took, done in _timed(run):
            if same_benchmarks or name != "benchmark_replies":
                seconds[name] += took
                units[name] += done
    return {name: seconds[name] / units[name] for name in seconds}


def _runs_alike(config: RunConfig) -> list[RunFolder]:
    """The latest runs of the root with the same teacher, judges and backbone."""
    runs = []
    for run in runs_of(config.run.root):
        # One of another version, or damaged, is passed over: `tapir status` says which.
        with suppress(TapirError, ValueError, TypeError):
            if _models(run.config) == _models(config):
                runs.append((run.record.created, run.ref.name, run))
    return [run for *_, run in sorted(runs, key=lambda each: each[:2], reverse=True)[:_RUNS]]


def _models(config: RunConfig) -> tuple[object, ...]:
    return (
        config.teacher.endpoint.answers_as("teacher"),
        config.judge.identities,
        config.student.backbone,
        config.student.engine.type,
    )


def _benchmark_voices(config: RunConfig) -> set[ModelIdentity]:
    judged = (each for name, each in config.evaluation.judged.items() if name in config.evaluation.each_round)
    return {config.judge_of(each).answers_as("judge") for each in judged}


def _timed(run: RunFolder) -> Iterator[tuple[str, float, float]]:
    """Stage, seconds and what was done in them: paid calls, or examples of a training; not what was taken over."""
    look, config = RunReader(run), run.config
    for number in (None, *range(BACKBONE, config.run.rounds + 1)):
        for stage in look.summarise_stages(lines_once() if number is None else lines_of_round(), number):
            done = float(stage.usage.calls) if stage.asks else 0.0
            mixture = look.manifest(StageAt("mix", number)) if stage.name == "train" else None
            if mixture is not None:
                done = mixture.rows * (config.round(number).epochs if number else config.basic_tuning.epochs)
            if done and stage.seconds:
                yield stage.name, stage.seconds, done
