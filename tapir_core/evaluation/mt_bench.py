"""MT-Bench: two turns a question, ratings of a student's answers, or pairs with a baseline's; FastChat's files.

`FastChat` is what Vicuna-Instructions shares with it. A question is a line with ``question_id``, ``category`` and
``turns``; an answer one with ``question_id`` and ``choices``, of which the first one's ``turns`` count. Answers of a
model may have the form of 2023, in which ``text`` is the answer to the one turn. A question's own ``reference`` field
is not read, as in the original.

Grain: a rating is one judge reply on one turn of one question; a pair is one question and turn, and judged twice: each
answer stands first once, and what the two games disagree on is a tie. A game is one call, in one order, and worth 1 to
the model where it won, 0.5 for a tie, 0 where the baseline won. Source: FastChat (`fastchat/llm_judge`); the verdict of
a reply is found by containment as there, ``[[A]]`` before ``[[B]]``. Its rule for a rating is kept, the absent check of
the scale too: ``[[11]]`` is 11. Departures: a failed rating is None and not -1; ``[[08]]``, on which the original
fails, is 8. The prompts are our own and each is one user message, so that figures are near published ones and not equal
to them.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar, Literal, TypeVar

import polars as pl

from tapir_core.config import Sampling
from tapir_core.config.benchmarks import FastChatBenchmark, MTBenchBenchmark
from tapir_core.data.records import BadRecordError
from tapir_core.errors import ConfigError
from tapir_core.evaluation import scores
from tapir_core.evaluation.benchmark import Exchange, Game, Judging, items_table, register
from tapir_core.evaluation.rows import answer_of, check_category, read_rows, text_of
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE, SHARE, Figure, in_percent, mean_figure
from tapir_core.judging.prompt import neutralise
from tapir_core.prompts import Prompt
from tapir_core.text import Unparsed, encodable

Shown = Literal["A", "B", "tie"]
"""What a judge says of the answers it is shown: A stood first."""

NUMBER = r"([0-9]{1,8}(?:\.[0-9]{0,8})?)"
"""A rating or a score as these judges write it: digits, perhaps a point, perhaps digits; no sign, no blank."""

_VERDICTS: tuple[tuple[str, Shown], ...] = (("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie"))
WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
"""Categories in which the judge is shown a reference answer."""
_TEMPERATURES = {"extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1, "humanities": 0.1}
"""At which a student answers, in MT-Bench and Vicuna-Instructions alike; in any other category at the next one."""
_TEMPERATURE = 0.7
_F = TypeVar("_F", bound=FastChatBenchmark)
_SINGLE, _PAIR = "single", "pairwise"
_PROMPTS = {_SINGLE: "mt_bench_single", _PAIR: "mt_bench_pair"}
_BOTH: tuple[scores.Order, ...] = ("model_first", "baseline_first")

_TAGS = (
    *("question", "answer_a", "answer_b"),
    *("follow_up", "follow_up_answer", "follow_up_answer_a", "follow_up_answer_b", "follow_up_reference"),
)

_QUOTED_VERDICT = re.compile(r"\[(?=\[[ABC]\]\])")
"""A verdict of pairs in a text that is judged: a judge who quotes it would give it."""

_SCALE = (1.0, 10.0)
"""What the judge is asked for; not checked."""

_RATINGS = (re.compile(rf"\[\[{NUMBER}\]\]"), re.compile(rf"\[{NUMBER}\]"))


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark."""

    question: str
    """Its id."""
    category: str
    turns: tuple[str, ...]
    """What the user says; the second turn follows the student's own answer to the first."""


class FastChat(Judging[_F]):
    """A benchmark with questions and answers in FastChat's form."""

    model_field = "model_id"
    outputs_form = "question_id and choices with turns in each row (FastChat's model_answer)"

    def answering(self, category: str, _student: Sampling) -> Sampling:
        """Temperature by category."""
        return Sampling(temperature=_TEMPERATURES.get(category, _TEMPERATURE), max_tokens=self.settings.max_tokens)

    def read_outputs(self, path: str, _items: pl.DataFrame) -> dict[tuple[str, int], str | None]:
        """Found by the question's id."""
        answers = read_answers(path)
        return {(each, turn): text for each, turns in answers.items() for turn, text in enumerate(turns, start=1)}


@register(MTBenchBenchmark)
class MTBench(FastChat[MTBenchBenchmark]):
    """The benchmark with its settings."""

    labels: ClassVar[Mapping[str, str]] = {
        "rating": "rating, 1–10",
        "rating_turn_1": "rating of turn 1, 1–10",
        "rating_turn_2": "rating of turn 2, 1–10",
        "pair_win_rate_adjusted": "pairs: wins and half of the ties, %",
        "pair_win_rate": "pairs: wins, %",
        "pair_loss_rate": "pairs: losses, %",
        "pair_position_gap": "pairs: gain by standing first, points",
    }
    headlines = ("rating", "pair_win_rate_adjusted")

    def items(self) -> pl.DataFrame:
        """All turns, with references in the categories that have them, and with a baseline's answers for pairs."""
        where, settings = self.where, self.settings
        questions = read_questions(settings.questions)
        if long := [each.question for each in questions if len(each.turns) > 2]:
            raise ConfigError(f"{where}.questions: question {', '.join(long)} has more than two turns")
        references = {} if settings.references is None else read_answers(settings.references)
        check_references(questions, references, f"{where}.references")
        items = items_table(
            (
                *(each.question, each.category, turn + 1, text),
                references[each.question][turn] if each.category in WITH_REFERENCE else None,
                None,
            )
            for each in questions
            for turn, text in enumerate(each.turns)
        )
        return self.with_baseline(items) if _PAIR in settings.modes else items

    def games(self, exchange: Exchange, prompts: Mapping[str, Prompt]) -> list[Game]:
        """For each turn a rating, a pair in both orders, or all three."""
        places = [(mode, order) for mode in self.settings.modes for order in (_BOTH if mode == _PAIR else ("single",))]
        return [
            self._game(exchange, turn, mode, order, prompts)
            for turn, (mode, order) in product(range(1, len(exchange.turns) + 1), places)
        ]

    def read(self, game: Game, text: str, _logprobs: Mapping[str, float]) -> scores.Judgment | Unparsed:
        """A rating; of a pair 1 where the model won, 0.5 for a tie, 0 where the baseline did."""
        if game.mode == _SINGLE:
            rating = parse_rating(text)
            return rating if isinstance(rating, Unparsed) else scores.Judgment(rating)
        shown = parse_pair_verdict(text)
        if isinstance(shown, Unparsed):
            return shown
        return scores.Judgment(win_of_game(shown, model_first=game.order == "model_first"))

    @property
    def modes(self) -> tuple[str, ...]:
        """Ratings first, then pairs."""
        return tuple(mode for mode in (_SINGLE, _PAIR) if mode in self.settings.modes)

    def figures(
        self, mode: str, exchanges: Sequence[Exchange], judged: Mapping[scores.Place, scores.Judgment], *, whole: bool
    ) -> dict[str, Figure]:
        """Mean ratings; or wins and losses, and of all questions what standing first is worth."""
        limit = self.settings.max_failed_share
        if mode == _SINGLE:
            return measure_ratings(_values(exchanges, judged, _SINGLE, "single"), max_failed_share=limit)
        found = measure_pairs(_pairs(exchanges, judged), max_failed_share=limit)
        return found if whole else {name: each for name, each in found.items() if name != "pair_position_gap"}

    def values(
        self, exchanges: Sequence[Exchange], judged: Mapping[scores.Place, scores.Judgment]
    ) -> dict[str, scores.ItemValues]:
        """Of both turns together: the mean rating, the share of a win in per cent."""
        found: dict[str, scores.ItemValues] = {}
        if _SINGLE in self.modes:
            found["rating"] = scores.by_question(_values(exchanges, judged, _SINGLE, "single"))
        if _PAIR in self.modes:
            wins = {place: combine_games(*games) for place, games in _pairs(exchanges, judged).items()}
            found["pair_win_rate_adjusted"] = scores.by_question(
                {place: None if win is None else 100 * win for place, win in wins.items()}
            )
        return found

    def _game(
        self, exchange: Exchange, turn: int, mode: str, order: scores.Order, prompts: Mapping[str, Prompt]
    ) -> Game:
        shown = exchange.turns[:turn]
        lacking = {each.lacking for each in shown}
        for reason in (scores.NO_ANSWER, scores.NO_BASELINE) if mode == _PAIR else (scores.NO_ANSWER,):
            if reason in lacking:
                return exchange.game(turn, mode, order, None, reason=reason)
        sections: dict[str, str | None] = {}
        for each, (question, prefix) in zip(shown, (("question", ""), ("follow_up", "follow_up_")), strict=False):
            sections |= {question: each.question, f"{prefix}reference": each.reference}
            if mode == _SINGLE:
                sections[f"{prefix}answer"] = each.response
            else:
                sections |= dict(zip((f"{prefix}answer_a", f"{prefix}answer_b"), each.shown(order), strict=True))
        # A text that closes no section and gives no verdict.
        safe = {
            tag: _QUOTED_VERDICT.sub("[ ", neutralise(sections.get(tag) or "", _TAGS)) for tag in {*_TAGS, *sections}
        }
        text = prompts[_PROMPTS[mode]].render(**safe)
        return exchange.game(turn, mode, order, text, prompt=_PROMPTS[mode])


def read_questions(path: str) -> list[Question]:
    """The questions of a file, in its order.

    Raises:
        ConfigError: the file cannot be read, has a row that is no question, or an id twice.
    """
    questions = read_rows(
        path, lambda row: Question(_id(row), check_category(text_of(row, "category")), _user_turns(row)), "question"
    )
    ids = [each.question for each in questions]
    if twice := sorted({each for each in ids if ids.count(each) > 1}):
        raise ConfigError(f"{path!r} has question_id {', '.join(twice)} more than once")
    return questions


def read_answers(path: str) -> dict[str, tuple[str | None, ...]]:
    """Question id → an answer to each turn; of a question that is there twice the last row counts.

    An answer that failed (`null` or ``$ERROR$``) is nothing.

    Raises:
        ConfigError: the file cannot be read, or has a row that is no answer.
    """
    return dict(read_rows(path, _answer, "answer"))


def check_references(questions: Sequence[Question], references: Mapping[str, Sequence[str | None]], field: str) -> None:
    """Every question whose category needs a reference has one for each turn; an empty text is none.

    ``field`` of the configuration, which has them, is named in messages.

    Raises:
        ConfigError: some have none; all are named.
    """
    lacking = [
        each.question
        for each in questions
        if each.category in WITH_REFERENCE
        and sum(bool(text and text.strip()) for text in references.get(each.question, ())[: len(each.turns)])
        < len(each.turns)
    ]
    if lacking:
        raise ConfigError(
            f"{field}: no reference answer to question {', '.join(lacking)}; questions on mathematics, reasoning and "
            "coding are judged against one"
        )


def parse_rating(reply: str | None) -> float | Unparsed:
    """The first number in double brackets; where there is none, the first in single ones."""
    found = next((match for form in _RATINGS if (match := form.search(reply or ""))), None)
    return Unparsed("no rating") if found is None else float(found[1])


def measure_ratings(
    ratings: Mapping[tuple[str, int], float | None], *, max_failed_share: float = MAX_FAILED_SHARE
) -> dict[str, Figure]:
    """Mean ratings, 1-10: of all together (not of the two means: the MT-Bench score), of turn 1, of turn 2.

    Args:
        ratings: question and turn → rating; None where it failed. Intervals take questions as independent, not turns.
        max_failed_share: above this share of failed ones (0-1) there is no figure.
    """
    found = {}
    for metric, turns in (("rating", (1, 2)), ("rating_turn_1", (1,)), ("rating_turn_2", (2,))):
        of = {question: rating for question, rating in ratings.items() if question[1] in turns}
        clusters = [question for question, _ in of]
        found[metric] = mean_figure([*of.values()], clusters=clusters, scale=_SCALE, max_failed_share=max_failed_share)
    return found


def parse_pair_verdict(reply: str | None) -> Shown | Unparsed:
    """The verdict that a reply contains: A before B before C (tie), wherever they stand."""
    return next((shown for mark, shown in _VERDICTS if mark in (reply or "")), Unparsed("no verdict"))


def win_of_game(shown: Shown, *, model_first: bool) -> float:
    """What a verdict on the shown answers is worth to the model."""
    return 0.5 if shown == "tie" else float((shown == "A") == model_first)


def combine_games(model_first: float | None, baseline_first: float | None) -> float | None:
    """What both games are worth; whatever they disagree on is a tie. None when one of them failed."""
    if model_first is None or baseline_first is None:
        return None
    return model_first if model_first == baseline_first else 0.5


def measure_pairs(
    pairs: Mapping[tuple[str, int], tuple[float | None, float | None]], *, max_failed_share: float = MAX_FAILED_SHARE
) -> dict[str, Figure]:
    """The model against the baseline over all turns; intervals take questions as independent, not turns.

    Args:
        pairs: question and turn → what the game was worth in which the model's answer stood first, and the other one;
            None where it failed.
        max_failed_share: above this share of failed ones (0-1) there is no figure.
    """
    questions = [question for question, _ in pairs]
    found = measure_outcomes([combine_games(*games) for games in pairs.values()], questions, max_failed_share)
    gaps = [None if first is None or second is None else first - second for first, second in pairs.values()]
    gap = mean_figure(gaps, clusters=questions, scale=(-1.0, 1.0), max_failed_share=max_failed_share)
    figures = {f"pair_{name}": figure for name, figure in found.items()}
    return {**figures, "pair_position_gap": replace(in_percent(gap), note=scores.position_note(gap.estimate))}


def measure_outcomes(
    outcomes: Sequence[float | None], questions: Sequence[Hashable], max_failed_share: float
) -> dict[str, Figure]:
    """How often the model wins against the baseline, in per cent: wins and half of the ties, wins, losses.

    ``questions`` says which question each outcome belongs to. The first figure says the counts.
    """
    wins, losses = ([None if each is None else float(each == end) for each in outcomes] for end in (1.0, 0.0))
    rates = {"win_rate_adjusted": outcomes, "win_rate": wins, "loss_rate": losses}
    found = {
        name: in_percent(mean_figure(of, clusters=questions, scale=SHARE, max_failed_share=max_failed_share))
        for name, of in rates.items()
    }
    counts = f"{outcomes.count(1.0)} wins, {outcomes.count(0.0)} losses, {outcomes.count(0.5)} ties"
    return {**found, "win_rate_adjusted": replace(found["win_rate_adjusted"], note=counts)}


def _answer(fields: Mapping[str, Any]) -> tuple[str, tuple[str | None, ...]]:
    if "choices" not in fields and "text" in fields:
        return _id(fields), (answer_of(fields["text"], "text"),)
    choices = fields.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadRecordError(f"choices must be a list of objects, got {choices!r}")
    turns = choices[0].get("turns")
    if not isinstance(turns, list) or not turns:
        raise BadRecordError(f"turns must be a list of texts, got {turns!r}")
    return _id(fields), tuple(answer_of(turn, "an answer in turns") for turn in turns)


def _id(fields: Mapping[str, Any]) -> str:
    found = fields.get("question_id")
    if isinstance(found, bool) or not isinstance(found, int | str):
        raise BadRecordError(f"question_id must be a number or a text, got {found!r}")
    return encodable(str(found))


def _user_turns(fields: Mapping[str, Any]) -> tuple[str, ...]:
    turns = fields.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise BadRecordError(f"turns must be a list of texts, got {turns!r}")
    return tuple(map(encodable, turns))


def _values(
    exchanges: Sequence[Exchange], judged: Mapping[scores.Place, scores.Judgment], mode: str, order: scores.Order
) -> dict[tuple[str, int], float | None]:
    """Question and turn → what the judgment of this mode and order is worth to the model."""
    turns = [(each.question_id, turn) for each in exchanges for turn in range(1, len(each.turns) + 1)]
    return {turn: judged.get((*turn, mode, order), scores.Judgment()).value for turn in turns}


def _pairs(
    exchanges: Sequence[Exchange], judged: Mapping[scores.Place, scores.Judgment]
) -> dict[tuple[str, int], tuple[float | None, float | None]]:
    """What the game is worth to the model in which its answer stood first, and the other one."""
    first, second = (_values(exchanges, judged, _PAIR, order) for order in _BOTH)
    return {turn: (first[turn], second[turn]) for turn in first}
