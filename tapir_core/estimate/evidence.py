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
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from tapir_core import curriculum, sources, stages
from tapir_core.calls import Answer, AnswerStore, Message, Outcome, Request, Role
from tapir_core.config import ModelIdentity, RunConfig
from tapir_core.data import readers
from tapir_core.errors import TapirError
from tapir_core.estimate.workload import Asks, Pool, Prompts, conversations_seen, expected_shares
from tapir_core.evaluation.benchmark import exchanges_of, judging
from tapir_core.judging import mode_of, show_instruction
from tapir_core.prompts import Prompt
from tapir_core.run_folder import RunFolder, runs_of
from tapir_core.speeds import EndpointSpeed
from tapir_core.standin.families import recognise
from tapir_core.summary import RunReader
from tapir_core.turns import messages_of

_ANSWERED_BY: Mapping[str, Role] = {"teacher": "teach", "student": "answer"}

Instruction = Mapping[str, Any]
"""A row of the pool: instruction, system, reference, maybe earlier_turns and answer."""

Asked = tuple[Role, ModelIdentity, str]
"""For what a model is asked, which one, and of which benchmark: the empty text for none."""

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
]
"""Kind of characters, and how many of it make a token."""
_OTHERS = 0.5
"""The same of all other characters: signs, emoji and rare writings take two tokens and more each."""
_BLANK = re.compile(r"\s+")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")
"""Weights in a model's name, such as 135m or 1.5b."""
_FEWEST_LABELS = 30
"""Known labels from which the shares of the pool are taken."""
_LOOKED_AT = 2000
"""Stored answers that a mean length is taken of, at most."""
_FEWEST = 20
"""Fewer say too little."""
_LOOKED_UP = 20_000
"""Instructions whose answers are looked up at once."""
_RUNS = 3
"""Earlier runs that are looked at, the latest first."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measured on the sample, found in the store, or seen in earlier runs of the same root."""

    prompts: Mapping[Role, Prompts]
    instruction: float
    """Tokens of an instruction alone."""
    sampled: int
    """Instructions of the pool that were rendered."""
    lengths: Mapping[Asked, float] = field(default_factory=dict)
    """Completion tokens of a reply of one model in one role, on average."""
    benchmarks: Mapping[str, Asks] = field(default_factory=dict)
    """What the benchmarks of each round ask of one student, as their files say."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage → seconds of a call that an earlier run with the same models paid for, concurrency and starts included; of
    `train` seconds of an example."""
    speeds: Mapping[str, EndpointSpeed] = field(default_factory=dict)
    """Place of an endpoint → how fast it answered when `tapir doctor --try` asked."""
    weights: float | None = None
    """Of the student."""
    gpus: int = 0
    """That train and serve the student; none for a CPU."""


def _labelling(config: RunConfig) -> curriculum.Labelling:
    return curriculum.Labelling(config.curriculum.types, config.teacher.label_replies)


def pool_requests(config: RunConfig, prompt: Prompt, row: Instruction) -> tuple[Request, Request]:
    """The requests for task type and plain answer of an instruction, as the stages `label` and `teach` make them."""
    teacher, label = config.teacher, _labelling(config)
    who, asked = teacher.endpoint.answers_as("teacher"), (Message("user", label.render(prompt, show_instruction(row))),)
    labelled = Request("label", asked, who.model, who.identity, teacher.labelling, schema=label.schema)
    return labelled, plain_request(config, row)


def plain_request(config: RunConfig, row: Instruction) -> Request:
    """The request for the teacher's plain answer to an instruction, as the stage `teach` makes it."""
    teacher, turns = config.teacher, tuple(Message(*turn) for turn in messages_of(row))
    return Request(
        "teach", turns, *teacher.endpoint.answers_as("teacher"), teacher.answering, schema=teacher.answer_schema
    )


def measure_prompts(
    config: RunConfig,
    prompts: Mapping[str, Prompt],
    sample: Sequence[Instruction],
    natural: Mapping[str, float] | None = None,
) -> dict[Role, Prompts]:
    """Render every prompt of the run on a sample of its pool and count; ``natural`` are the pool's shares, if known."""
    shares, judge, mode = expected_shares(config, natural), config.judge, mode_of(config.judge)
    commonest, place = max(shares, key=shares.__getitem__), mode.places()[0]
    asked = [pool_requests(config, prompts["label"], row) for row in sample]
    chats = [[estimate_tokens(each.content) + MESSAGE_TOKENS for each in teach.messages] for _, teach in asked]
    judged = [
        mode.render(prompts[judge.asked_as.prompt], {**row, "teacher": "", "student": ""}, place) for row in sample
    ]
    types = config.curriculum.types
    wanted = types.described(commonest)
    expanded = [curriculum.render_expansion(prompts["expand"], show_instruction(row), wanted) for row in sample]
    refining = {task_type: curriculum.refinement_prompt_name(types.family_of(task_type)) for task_type in shares}
    refined = {
        name: _one_message(
            curriculum.render_refinement(prompts[name], show_instruction(row), row["system"], "") for row in sample
        )
        for name in {*refining.values()}
    }
    plain = Prompts(_mean([sum(chat) for chat in chats]))
    return {
        "label": Prompts(_one_message(label.messages[0].content for label, _ in asked)),
        **dict.fromkeys(("teach", "answer", "rollout"), plain),
        "score": replace(plain, shows={"rollout": 1}),
        "judge": Prompts(_one_message(judged), {_ANSWERED_BY[each]: 1 for each in mode.shown}),
        "expand": Prompts(_one_message(expanded)),
        "refine": Prompts(sum(share * refined[refining[each]] for each, share in shares.items()), {"teach": 1}),
    }


def measure_benchmarks(config: RunConfig, prompts: Mapping[str, Prompt]) -> dict[str, Asks]:
    """Benchmark of each round → what it asks, read from its files.

    Raises:
        ConfigError: a file cannot be read, is wrong, or lacks what another one asks for.
    """
    return {
        name: _measure(config, name, prompts) if name in config.evaluation.judged else _measure_marked(config, name)
        for name in config.evaluation.each_round
    }


def _measure(config: RunConfig, name: str, prompts: Mapping[str, Prompt]) -> Asks:
    benchmark = judging(config, name)
    items = benchmark.items()
    # A placeholder stands for the student's answers.
    exchanges = exchanges_of(items, items.select("question_id", "turn", response=pl.lit("-")))
    games = [game for each in exchanges for game in benchmark.games(each, prompts) if game.text is not None]
    turns = [(number, each.turns[: number + 1]) for each in exchanges for number in range(len(each.turns))]
    # A turn is asked after the earlier ones, each with a message for its answer.
    asked = [
        sum(estimate_tokens(turn.question) for turn in upto) + MESSAGE_TOKENS * (2 * number + 1)
        for number, upto in turns
    ]
    # A judgment on a turn shows the answers to all turns up to it.
    shown: dict[Role, float] = {"answer": _mean([game.turn for game in games])}
    return {
        "answer": Prompts(_mean(asked), {"answer": _mean([number for number, _ in turns])}, items.height),
        "benchmark": Prompts(_one_message(game.text or "" for game in games), shown, len(games)),
    }


def _measure_marked(config: RunConfig, name: str) -> Asks:
    """Of what is marked without a call: its prompts are taken to be the questions of its file."""
    asked = readers.read_questions({name: config.evaluation.benchmarks[name]}).filter(turn=1)["question"]
    return {"answer": Prompts(_one_message(asked), calls=len(asked))}


def estimate_tokens(text: str) -> int:
    """About how many tokens ``text`` has: 0 for an empty text, at least 1 for any other.

    A blank between words belongs to the word after it and costs nothing; new lines are a token for each run of them.
    """
    rest = _BLANK.sub("", text)
    of_kinds = [sum(map(len, kind.findall(rest))) for kind, _ in _KINDS]
    tokens = sum(count / chars_per_token for count, (_, chars_per_token) in zip(of_kinds, _KINDS, strict=True))
    tokens += len(re.findall(r"\n+", text)) + (len(rest) - sum(of_kinds)) / _OTHERS
    return max(1, math.ceil(tokens)) if text else 0


def mean_tokens(texts: Iterable[str]) -> float:
    """Tokens of a text on average; 0 without any."""
    return _mean([estimate_tokens(text) for text in texts])


def _one_message(texts: Iterable[str]) -> float:
    """Tokens of a prompt on average that is one message."""
    return mean_tokens(texts) + MESSAGE_TOKENS


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def look_at_pool(config: RunConfig, read: readers.Found, prompt: Prompt, url: str) -> tuple[pl.DataFrame, Pool]:
    """The pool that stage `pool` will make, and what is known of it; ``prompt`` labels it, ``url`` is the store.

    What holds an evaluation question is left out, as the run will leave it out.

    Raises:
        ConfigError: a file of the held-out set or of a benchmark cannot be read, or has bad rows.
    """
    from tapir_core.calls.store_tables import is_there

    found = sources.clean_pool(config, read)
    rows, parse, usable_share = found.rows.drop("instruction_id", "source"), _labelling(config).parse, None
    task_types, labels, answered = list[str](), 0, 0
    if is_there(url):
        with AnswerStore(url, longest_seconds=0.0) as store:
            for some in rows.iter_slices(_LOOKED_UP):
                known, answers = _stored(store, config, prompt, some.to_dicts())
                labels, answered = labels + len(known), answered + len(answers)
                parsed = (parse(reply.text) for reply in known if isinstance(reply, Answer))
                task_types += [each for each in parsed if isinstance(each, str)]
    if config.teacher.endpoint.is_standin:
        # What the stand-in will say is known without asking it.
        names = config.curriculum.types.names
        task_types = [
            label
            for each in map(recognise, rows["instruction"])
            if each and (label := each.task_type if names[1:] else names[0]) in names
        ]
        usable_share = len(task_types) / rows.height if rows.height else None
    shares = {name: count / len(task_types) for name, count in Counter(task_types).items()}
    natural = shares if len(task_types) >= _FEWEST_LABELS else None
    own, given = (int((rows[name] != "").sum()) if name in rows.columns else 0 for name in ("answer", "reference"))
    notes = tuple(filter(None, (*found.notes, found.lost)))
    return rows, Pool(rows.height, found.heldout_rows, natural, usable_share, labels, answered, own, given, notes)


def _stored(
    store: AnswerStore, config: RunConfig, prompt: Prompt, rows: list[dict[str, Any]]
) -> tuple[Collection[Outcome], Collection[str]]:
    """The outcomes that label some instructions, and the keys of those that answer them, as the store has them."""
    requests = [pool_requests(config, prompt, each) for each in rows]
    asked = [teach for (_, teach), row in zip(requests, rows, strict=True) if not row.get("answer")]
    samples = range(config.teacher.answers_per_prompt)
    answers = store.known([replace(teach, sample_index=each).key for teach in asked for each in samples])
    return store.lookup([label.key for label, _ in requests]).values(), answers


def stored_lengths(url: str, asked: Mapping[Asked, Sequence[str]]) -> dict[Asked, float]:
    """Mean completion tokens of stored answers, where there are enough of them; empty where there is no store.

    Args:
        url: the store.
        asked: what is wanted → the versions of the prompts where only some count.
    """
    from sqlalchemy import func, select

    from tapir_core.calls.store_tables import answers, is_there, open_engine

    if not is_there(url):
        return {}
    engine, lengths = open_engine(url), {}
    with engine.connect() as connection:
        for (role, who, benchmark), versions in asked.items():
            alike = {"role": role, "status": "answer", "model": who.model, "identity": who.identity}
            of_prompts = [answers.c.prompt_version.in_(versions)] if versions else []
            some = select(answers.c.completion_tokens).filter_by(**alike).where(*of_prompts).limit(_LOOKED_AT)
            count, mean = connection.execute(select(func.count(), func.avg(some.subquery().c[0]))).one()
            if count >= _FEWEST:
                lengths[role, who, benchmark] = float(mean)
    engine.dispose()
    return lengths


def past_seconds(config: RunConfig) -> dict[str, float]:
    """Stage → seconds of a paid call (of `train`: of an example), over the latest runs of the root with its models.

    What a run took over from another one does not count.
    """
    seconds, units = defaultdict[str, float](float), defaultdict[str, float](float)
    for run in _runs_alike(config):
        reader, its = RunReader(run), run.config
        for number in (None, *its.students):
            parts = [stages.ONCE] if number is None else [stages.making(number), stages.EVALUATION, stages.BENCHMARK]
            for stage in reader.summarise_stages(stages.lines(*parts), number):
                done = float(stage.usage.calls) if stage.asks else 0.0
                if mixture := reader.manifest(stages.MIX.at(number)) if stage.name == stages.TRAIN.name else None:
                    done = conversations_seen(its, number or 0, mixture.rows)
                seconds[stage.name] += stage.seconds if done else 0.0
                units[stage.name] += done if stage.seconds else 0.0
    return {name: seconds[name] / done for name, done in units.items() if done >= _FEWEST}


def weights_of(backbone: str) -> float | None:
    """About how many weights a model has: by the files of its folder, taken to be in 16 bits, or by its name."""
    files = [each.stat().st_size for each in Path(backbone).glob("*.safetensors")]
    named = _SIZE.search(Path(backbone).name.lower())
    of_files = sum(files) / 2 or None
    return of_files if files or named is None else float(named[1]) * (1e9 if named[2] == "b" else 1e6)


def _runs_alike(config: RunConfig) -> list[RunFolder]:
    """The latest runs of the root with the same teacher, judges and backbone."""

    def models(of: RunConfig) -> tuple[object, ...]:
        teacher, student = of.teacher.endpoint.answers_as("teacher"), of.student
        return teacher, of.judge.identities, student.backbone, student.engine.type

    runs = []
    for run in runs_of(config.run.root):
        # One of another version, or damaged, is passed over: `tapir status` says which.
        with suppress(TapirError, ValueError, TypeError):
            if models(run.config) == models(config):
                runs.append((run.record.created, run.ref.name, run))
    return [run for *_, run in sorted(runs, key=lambda each: each[:2], reverse=True)[:_RUNS]]
