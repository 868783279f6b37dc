"""AlpacaEval 2.0 asked of a student: outputs against a baseline's, an annotator's choices, win rates.

The prompt is our own, so that figures are near published ones and not equal to them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tapir_core.config import AlpacaEvalBenchmark, Sampling
from tapir_core.errors import ConfigError
from tapir_core.evaluation.alpaca_eval import (
    Annotation,
    Comparison,
    LengthTables,
    length_alone,
    measure_annotations,
    measure_win_rates,
    preference_from_choice,
    preference_from_logprobs,
    read_length_tables,
    read_outputs,
)
from tapir_core.evaluation.alpaca_eval.preference import BASELINE, DRAW
from tapir_core.evaluation.benchmarks.baseline import BaselineStudent, check_baseline
from tapir_core.evaluation.benchmarks.failures import Failures
from tapir_core.evaluation.benchmarks.types import (
    NO_ANSWER,
    NO_BASELINE,
    Exchange,
    Game,
    ItemValues,
    Judged,
    Order,
    Place,
    Reading,
    Score,
    failed,
    items_table,
    position_note,
    score,
    settled,
    withhold_categories,
)
from tapir_core.evaluation.questions import check_category
from tapir_core.evaluation.rows import encodable, read_rows, text_of
from tapir_core.evaluation.statistics import Figure
from tapir_core.judging.agreement import favoured_position
from tapir_core.judging.prompt import neutralise
from tapir_core.prompts import Prompt
from tapir_core.replies import Unparsed

__all__ = ["AlpacaEval"]

_MODE, _PROMPT = "annotation", "alpaca_eval"
_TAGS = ("output_1", "output_2")
_LOGPROBS, _CHOICE, _EQUAL = "log-probabilities", "parsed choices", "equal outputs"
_MINIMAL = "by lengths alone, never beside a published rate"


@dataclass(frozen=True, slots=True)
class AlpacaEval:
    """The benchmark ``name`` with its settings."""

    name: str
    settings: AlpacaEvalBenchmark
    against: BaselineStudent | None = None
    """The student of another run, where the baseline is no file."""

    def items(self) -> pl.DataFrame:
        """The instructions with the baseline's outputs; their category is the set that they come from (`dataset`).

        An output that the baseline lacks is nothing, and its question counts as failed.
        """
        where, baseline = f"evaluation.benchmarks.{self.name}", self._baseline()
        asked = read_rows(
            self.settings.questions,
            lambda row: (text_of(row, "instruction"), check_category(encodable(str(row.get("dataset") or "")))),
            "question",
        )
        texts = [text for text, _ in asked]
        check_baseline(f"{where}.baseline", self._whose, texts, [text for text in texts if baseline.get(text) is None])
        tables = self._tables()
        if tables is not None and len(tables.difficulty) != len(asked):
            raise ConfigError(
                f"{where}.difficulty: {len(tables.difficulty)} rows for {len(asked)} questions; give the table of the "
                "same questions, in their order"
            )
        return items_table(
            (str(number), category, 1, text, None, baseline.get(text))
            for number, (text, category) in enumerate(asked, start=1)
        )

    def answering(self, _category: str, student: Sampling) -> Sampling:
        """As configured, else as the student answers elsewhere."""
        return self.settings.answering or student

    def games(self, exchange: Exchange, prompts: Mapping[str, Prompt]) -> list[Game]:
        """One judgment, in the order that is drawn from the instruction; equal outputs are a draw."""
        [turn] = exchange.turns
        if turn.response is None or turn.baseline is None:
            lacking = NO_ANSWER if turn.response is None else NO_BASELINE
            return [failed(exchange, 1, _MODE, "single", lacking)]
        pair = Comparison(turn.question, turn.response, turn.baseline)
        order: Order = "model_first" if pair.switched else "baseline_first"
        if pair.is_draw:
            return [settled(exchange, 1, _MODE, order, Reading(DRAW, how=_EQUAL))]
        text = prompts[_PROMPT].render(
            instruction=neutralise(turn.question, _TAGS),
            output_1=neutralise(pair.shown.answer_1, _TAGS),
            output_2=neutralise(pair.shown.answer_2, _TAGS),
        )
        return [Game(exchange.question_id, exchange.category, 1, _MODE, order, text, _PROMPT)]

    def read(self, game: Game, text: str, logprobs: Mapping[str, float]) -> Reading | Unparsed:
        """The preference (1-2): from the log-probabilities where they hold an identifier, else from the reply."""
        switched = game.order == "model_first"
        found = preference_from_logprobs(logprobs, switched=switched)
        if not isinstance(found, Unparsed):
            return Reading(found, how=_LOGPROBS)
        chosen = preference_from_choice(text, switched=switched)
        return chosen if isinstance(chosen, Unparsed) else Reading(chosen, how=_CHOICE)

    def scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judged]) -> list[Score]:
        """Win rates, also by category; the length-controlled one; what standing first is worth."""
        by_question = {place[0]: (each, place[3]) for place, each in judged.items()}
        rows = [_annotation(each, by_question) for each in exchanges]
        limit, tables = self.settings.max_failed_share, self._tables()
        figures = measure_annotations(rows, tables or length_alone(len(rows)), max_failed_share=limit)
        rates, whole = figures.rates, figures.rates.win_rate
        note = f"by {_sources(judged)}"
        told = Failures(f"evaluation.benchmarks.{self.name}", self._whose, self.settings.logprobs_asked)
        failures = told.in_words(judged)
        scores = [
            score("win_rate", whole, note=note, failures=failures),
            score("discrete_win_rate", rates.discrete, note=note),
        ]
        controlled = Figure(figures.controlled, whole.n_failed)
        if tables is not None:
            doubt = "far from the raw rate: look at the lengths" if figures.length_is_doubtful else ""
            scores.append(score("length_controlled_win_rate", controlled, note=doubt))
        else:
            scores.append(score("length_controlled_minimal", controlled, note=_MINIMAL))
        if whole.estimate.value is not None:
            bias = position_note(favoured_position(figures.position))
            scores.append(score("position_gap", Figure(figures.position, whole.n_failed), note=bias))
        return withhold_categories([*scores, *self._by_category(exchanges, rows)])

    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judged]) -> dict[str, ItemValues]:
        """The probability of a win, in per cent."""
        by_question = {place[0]: (each, place[3]) for place, each in judged.items()}
        preferences = {each.question_id: _annotation(each, by_question).preference for each in exchanges}
        return {
            "win_rate": {
                name: None if found is None else 100 * (found - BASELINE) for name, found in preferences.items()
            }
        }

    def _by_category(self, exchanges: Sequence[Exchange], rows: Sequence[Annotation]) -> Iterator[Score]:
        for name in dict.fromkeys(each.category for each in exchanges if each.category):
            of = [row for each, row in zip(exchanges, rows, strict=True) if each.category == name]
            found = measure_win_rates(of, max_failed_share=self.settings.max_failed_share)
            yield score("win_rate", found.win_rate, name)

    @property
    def _whose(self) -> str:
        return repr(self.settings.baseline_file) if self.against is None else self.against.student

    def _baseline(self) -> dict[str, str | None]:
        """Instruction → the baseline's output, which is nothing where it failed."""
        if self.against is not None:
            return self.against.outputs()
        return read_outputs(self.settings.baseline_file or "")

    def _tables(self) -> LengthTables | None:
        if self.settings.difficulty is None or self.settings.anchors is None:
            return None
        return read_length_tables(self.settings.difficulty, self.settings.anchors)


def _annotation(exchange: Exchange, judged: Mapping[str, tuple[Judged, Order]]) -> Annotation:
    [turn] = exchange.turns
    found, order = judged.get(exchange.question_id, (Judged(), "single"))
    # An output that is not there has no length. Its row has to stay, since difficulty goes by place: taken as equal.
    own, other = turn.response, turn.baseline
    chars, baseline_chars = (
        len(text or "") for text in (other if own is None else own, own if other is None else other)
    )
    return Annotation(found.value, chars, baseline_chars, None if order == "single" else order == "model_first")


def _sources(judged: Mapping[Place, Judged]) -> str:
    """What the preferences were read from: `log-probabilities`, `parsed choices`, or how many from each."""
    counts = Counter(each.how for each in judged.values() if each.value is not None and each.how != _EQUAL)
    if len(counts) == 1:
        return next(iter(counts))
    return " and ".join(f"{how} ({number})" for how, number in sorted(counts.items())) or _EQUAL
