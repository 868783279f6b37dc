"""AlpacaEval 2.0: a student's outputs against a baseline's, an annotator's choices, win rates, length control.

The prompt is our own, so that figures are near published ones and not equal to them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import polars as pl

from tapir_core.config import AlpacaEvalBenchmark
from tapir_core.errors import ConfigError
from tapir_core.evaluation.annotations import (
    DRAW,
    Annotation,
    WinRates,
    is_switched,
    measure_position,
    measure_win_rates,
    preference_from_choice,
    preference_from_logprobs,
    read_outputs,
)
from tapir_core.evaluation.benchmark import Exchange, Game, Judging, Reading, items_table, register
from tapir_core.evaluation.length_control import (
    ControlledRate,
    LengthTables,
    control_length,
    is_far_from,
    length_alone,
    read_length_tables,
)
from tapir_core.evaluation.rows import check_category, encodable, read_rows, text_of
from tapir_core.evaluation.scores import ItemValues, Judgment, Order, Place, position_note
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE, Figure
from tapir_core.judging.estimates import Estimate
from tapir_core.judging.prompt import neutralise
from tapir_core.prompts import Prompt
from tapir_core.text import Unparsed

_MODE, _PROMPT = "annotation", "alpaca_eval"
_TAGS = ("output_1", "output_2")
_LOGPROBS, _CHOICE, _EQUAL = "log-probabilities", "parsed choices", "equal outputs"
_MINIMAL = "by lengths alone, never beside a published rate"
_NO_TABLES = "needs the difficulty table and the anchors"


@dataclass(frozen=True, slots=True)
class AlpacaEvalFigures:
    """One model against the baseline, in per cent."""

    rates: WinRates
    controlled: Estimate
    """Length-controlled win rate, with its sampling error; ``n`` counts the judgments that it rests on."""
    controlled_spread: float | None
    """The spread of its predictions over the instructions, which the original calls ``lc_standard_error``."""
    position: Estimate
    """By how many points standing first raises the win rate; not defined where the orders are not known."""

    @property
    def length_is_doubtful(self) -> bool:
        """True when length control moves the rate so far that its regression is to be doubted."""
        raw = self.rates.win_rate.estimate.value
        return raw is not None and self.controlled.value is not None and is_far_from(self.controlled.value, raw)

    def to_dict(self) -> dict[str, float | int | None]:
        """The figures under the original's names."""
        rate = self.rates.win_rate.estimate
        return {
            "win_rate": rate.value,
            "standard_error": rate.stderr,
            "discrete_win_rate": self.rates.discrete.estimate.value,
            "n_total": rate.n,
            "length_controlled_winrate": self.controlled.value,
            "lc_standard_error": self.controlled_spread,
        }


@register(AlpacaEvalBenchmark)
class AlpacaEval(Judging[AlpacaEvalBenchmark]):
    """The benchmark with its settings."""

    model_field = "generator"
    outputs_form = "instruction and output in each row (model_outputs.json)"
    labels: ClassVar[Mapping[str, str]] = {
        "win_rate": "win rate, %",
        "discrete_win_rate": "discrete win rate, %",
        "length_controlled_win_rate": "length-controlled win rate, %",
        "length_controlled_minimal": "win rate at equal lengths, %",
        "position_gap": "gain by standing first, points",
    }
    headlines = ("win_rate",)
    modes = (_MODE,)

    def items(self) -> pl.DataFrame:
        """The instructions with the baseline's outputs; their category is the set that they come from (`dataset`).

        An output that the baseline lacks is nothing, and its question counts as failed.
        """
        path, other = self.settings.baseline_file or "", self.against
        baseline = read_outputs(path) if other is None else other.outputs()
        asked = read_rows(
            self.settings.questions,
            lambda row: (text_of(row, "instruction"), check_category(encodable(str(row.get("dataset") or "")))),
            "question",
        )
        texts = [text for text, _ in asked]
        self.check_baseline(texts, [text for text in texts if baseline.get(text) is None])
        tables = self._tables()
        if tables is not None and len(tables.difficulty) != len(asked):
            raise ConfigError(
                f"{self.where}.difficulty: {len(tables.difficulty)} rows for {len(asked)} questions; give the table of "
                "the same questions, in their order"
            )
        return items_table(
            (str(number), category, 1, text, None, baseline.get(text))
            for number, (text, category) in enumerate(asked, start=1)
        )

    def read_outputs(self, path: str, items: pl.DataFrame) -> dict[tuple[str, int], str | None]:
        """Found by the instruction."""
        outputs = read_outputs(path)
        asked = items.select("question_id", "turn", "question").rows()
        return {(question, turn): outputs.get(text) for question, turn, text in asked}

    def games(self, exchange: Exchange, prompts: Mapping[str, Prompt]) -> list[Game]:
        """One judgment, in the order that is drawn from the instruction; equal outputs are a draw."""
        [turn] = exchange.turns
        if turn.lacking:
            return [exchange.game(1, _MODE, "single", None, reason=turn.lacking)]
        order: Order = "model_first" if is_switched(turn.question) else "baseline_first"
        if turn.response == turn.baseline:
            return [exchange.game(1, _MODE, order, None, reading=Reading(DRAW, how=_EQUAL))]
        shown = (neutralise(text, _TAGS) for text in (turn.question, *turn.shown(order)))
        text = prompts[_PROMPT].render(**dict(zip(("instruction", *_TAGS), shown, strict=True)))
        return [exchange.game(1, _MODE, order, text, prompt=_PROMPT)]

    def read(self, game: Game, text: str, logprobs: Mapping[str, float]) -> Reading | Unparsed:
        """The preference (1-2): from the log-probabilities where they hold an identifier, else from the reply."""
        switched = game.order == "model_first"
        found = preference_from_logprobs(logprobs, switched=switched)
        if not isinstance(found, Unparsed):
            return Reading(found, how=_LOGPROBS)
        chosen = preference_from_choice(text, switched=switched)
        return chosen if isinstance(chosen, Unparsed) else Reading(chosen, how=_CHOICE)

    def figures(
        self, mode: str, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment], *, whole: bool
    ) -> dict[str, Figure]:
        """Win rates; of all questions also the length-controlled one, and what standing first is worth."""
        rows, limit = _annotations(exchanges, judged), self.settings.max_failed_share
        if not whole:
            # Questions that name no set are no category.
            named = any(each.category for each in exchanges)
            return {"win_rate": measure_win_rates(rows, max_failed_share=limit).win_rate} if named else {}
        tables = self._tables()
        found = measure_annotations(rows, tables or length_alone(len(rows)), max_failed_share=limit)
        raw, sources = found.rates.win_rate, f"by {_sources(judged)}"
        figures = {
            "win_rate": replace(raw, note=sources),
            "discrete_win_rate": replace(found.rates.discrete, note=sources),
        }
        if tables is None:
            figures["length_controlled_minimal"] = Figure(found.controlled, raw.n_failed, _MINIMAL)
        else:
            doubt = "far from the raw rate: look at the lengths" if found.length_is_doubtful else ""
            figures["length_controlled_win_rate"] = Figure(found.controlled, raw.n_failed, doubt)
        if raw.estimate.value is not None:
            figures["position_gap"] = Figure(found.position, raw.n_failed, position_note(found.position))
        return figures

    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> dict[str, ItemValues]:
        """The probability of a win, in per cent."""
        rows = zip(exchanges, _annotations(exchanges, judged), strict=True)
        wins = {each.question_id: row.win for each, row in rows}
        return {"win_rate": {name: None if win is None else 100 * win for name, win in wins.items()}}

    def _tables(self) -> LengthTables | None:
        if self.settings.difficulty is None or self.settings.anchors is None:
            return None
        return read_length_tables(self.settings.difficulty, self.settings.anchors)


def measure_annotations(
    judged: Sequence[Annotation],
    tables: LengthTables | None = None,
    *,
    max_failed_share: float = MAX_FAILED_SHARE,
) -> AlpacaEvalFigures:
    """Win rates, and with ``tables`` the length-controlled one; above ``max_failed_share`` (0-1) of failures, none.

    Raises:
        ConfigError: there are more judgments than rows in the difficulty table.
    """
    if tables is not None and len(judged) > len(tables.difficulty):
        raise ConfigError(
            f"{len(judged)} annotations, but a difficulty table of {len(tables.difficulty)} instructions; "
            "give the table of the same instructions, and the annotations of one model"
        )
    rates = measure_win_rates(judged, max_failed_share=max_failed_share)
    raw = rates.win_rate.estimate
    if raw.value is None or tables is None:
        controlled = ControlledRate(Estimate(None, 0, why=raw.why if raw.value is None else _NO_TABLES), spread=None)
    else:
        controlled = control_length(judged, tables)
    # A prediction for all instructions, with the count of the judgments.
    rate = replace(controlled.rate, n=raw.n)
    return AlpacaEvalFigures(rates, rate, controlled.spread, measure_position(judged))


def _annotations(exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> list[Annotation]:
    found = {
        place[0]: (each.value, place[3] == "model_first") for place, each in judged.items() if place[3] != "single"
    }
    rows = []
    for each in exchanges:
        [turn] = each.turns
        # An output that is not there has no length. Its row stays, since difficulty goes by place: taken as equal.
        own = turn.baseline if turn.response is None else turn.response
        other = turn.response if turn.baseline is None else turn.baseline
        preference, switched = found.get(each.question_id, (None, None))
        rows.append(Annotation(preference, len(own or ""), len(other or ""), switched))
    return rows


def _sources(judged: Mapping[Place, Judgment]) -> str:
    """What the preferences were read from: `log-probabilities`, `parsed choices`, or how many from each."""
    counts = Counter(each.how for each in judged.values() if each.value is not None and each.how != _EQUAL)
    if len(counts) == 1:
        return next(iter(counts))
    return " and ".join(f"{how} ({number})" for how, number in sorted(counts.items())) or _EQUAL
