"""The prompts of a run before it runs: keys of those that are known already, tokens of all, by a sample or by files.

The requests of benchmarks are counted exactly: every turn and every judgment of the files is made up with a placeholder
for the student's answers.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tapir_core.calls import Message, Request, Role
from tapir_core.config import RunConfig, Sampling
from tapir_core.curriculum import refinement_prompt_name, render_expansion, render_label, render_refinement
from tapir_core.data.readers import read_questions
from tapir_core.estimate.workload import BenchmarkSize, expected_shares
from tapir_core.evaluation.benchmark import Exchange, exchanges_of, judging
from tapir_core.judging import mode_of
from tapir_core.prompts import Prompt

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


def label_request(config: RunConfig, prompt: Prompt, instruction: Instruction) -> Request:
    """The request for the task type of an instruction, as stage `label` makes it."""
    text = render_label(prompt, instruction.text)
    return _request(config, "label", (Message("user", text),), config.teacher.labelling)


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
    labels = [render_label(prompts["label"], each.text) for each in sample]
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
    by_prompt: dict[str, float] = {}
    for task_type, share in shares.items():
        name = refinement_prompt_name(task_type)
        by_prompt[name] = by_prompt.get(name, 0.0) + share
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


def _answer_prompts(exchange: Exchange) -> Iterator[float]:
    """Tokens of the prompt of each turn: its question after the earlier ones, each with a message for its answer."""
    tokens = 0.0
    for number, turn in enumerate(exchange.turns):
        tokens += estimate_tokens(turn.question) + MESSAGE_TOKENS * (2 if number else 1)
        yield tokens


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
