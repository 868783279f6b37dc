"""AlpacaEval 2.0: a student's outputs against a baseline's, an annotator's choices, win rates, length control.

The prompt is our own, so that figures are near published ones and not equal to them. The scale of a preference: 1 the
baseline's output is better, 2 the model's, between them a probability, 1.5 a draw. The annotator is asked for one
token, the identifier of the better output: ``m`` is the one shown first, ``M`` the one shown second. Source:
tatsu-lab/alpaca_eval, annotator `weighted_alpaca_eval_gpt4_turbo`.

Annotations are a JSON list or JSON lines, one object a judgment: ``preference`` with ``output_1`` (the baseline's) and
``output_2`` (the model's), as in the original's ``annotations.json``; or with ``len_baseline`` and ``len_model`` in
their place. ``switched`` (whether the model's output was shown first) may be there, and who they are of: ``annotator``,
``generator_1`` (the baseline), ``model`` or ``generator_2``; other fields are passed over.
"""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import polars as pl

from tapir_core import errors, statistics
from tapir_core.config.benchmarks import AlpacaEvalBenchmark
from tapir_core.data.records import BadRecordError, read_text
from tapir_core.evaluation import benchmark, length_control, scores
from tapir_core.evaluation.rows import answer_of, check_category, read_rows, text_of
from tapir_core.judging.prompt import neutralise
from tapir_core.prompts import Prompt
from tapir_core.text import Unparsed, encodable, first_few

_BASELINE, _DRAW, _MODEL = 1.0, 1.5, 2.0
"""Preferences at the ends of the scale and in its middle."""

_FIRST, _SECOND = "m", "M"
"""Identifiers of the output shown first and of the one shown second."""

_MODE, _PROMPT = "annotation", "alpaca_eval"
_TAGS = ("output_1", "output_2")
_LOGPROBS, _CHOICE, _EQUAL = "log-probabilities", "parsed choices", "equal outputs"
_AROUND_A_CHOICE = " \t\r\n\"'`*.()[]"
_NAMES = {"model": ("model", "generator_2"), "annotator": ("annotator",), "baseline": ("generator_1",)}
"""Who judgments are of, and the fields that name them, the first one that is there."""


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """The judgments of one model, by one annotator, against one baseline."""

    judged: list[length_control.Annotation]
    """In the order of the file."""
    in_words: str
    """Whose judgments they are: model, annotator and baseline; empty where no row says so."""


@dataclass(frozen=True, slots=True)
class AlpacaEvalFigures:
    """One model against the baseline, in per cent."""

    win_rate: statistics.Estimate
    """Mean probability that the model's output is better; its standard error is the published one."""
    discrete: statistics.Estimate
    """Share of judgments that the model wins, a draw as one half."""
    outcomes: str
    """How many these are: wins, losses and draws, in words."""
    controlled: length_control.ControlledRate
    """Length-controlled win rate, with its sampling error; ``n`` counts the judgments that it rests on."""
    position: statistics.Estimate
    """By how many points standing first raises the win rate; not defined where the orders are not known."""

    @property
    def length_is_doubtful(self) -> bool:
        """True when length control moves the rate so far that its regression is to be doubted."""
        raw, controlled = self.win_rate.value, self.controlled.value
        return raw is not None and controlled is not None and length_control.is_far_from(controlled, raw)

    def to_dict(self) -> dict[str, float | int | None]:
        """The figures under the original's names."""
        return {
            "win_rate": self.win_rate.value,
            "standard_error": self.win_rate.stderr,
            "discrete_win_rate": self.discrete.value,
            "n_total": self.win_rate.n,
            "length_controlled_winrate": self.controlled.value,
            "lc_standard_error": self.controlled.spread,
        }


@benchmark.register(AlpacaEvalBenchmark)
class AlpacaEval(benchmark.Judging[AlpacaEvalBenchmark]):
    """The benchmark with its settings."""

    model_field = "generator"
    found_by = ("turn", "question")
    outputs_form = "instruction and output in each row (model_outputs.json)"
    labels: ClassVar[Mapping[str, str]] = {
        "win_rate": "win rate, %",
        "discrete_win_rate": "discrete win rate, %",
        "length_controlled_win_rate": "length-controlled win rate, %",
        "length_controlled_minimal": "win rate at equal lengths, %",
        "position_gap": "gain by standing first, points",
    }

    def items(self) -> pl.DataFrame:
        """The instructions with the baseline's outputs; their category is the set that they come from (`dataset`)."""
        asked = read_rows(
            self.settings.questions,
            lambda row: (text_of(row, "instruction"), check_category(encodable(str(row.get("dataset") or "")))),
            "question",
        )
        tables = read_length_tables(self.settings.difficulty, self.settings.anchors)
        if tables is not None and len(tables.difficulty) != len(asked):
            raise errors.ConfigError(
                f"{self.where}.difficulty: {len(tables.difficulty)} rows for {len(asked)} questions; give the table of "
                "the same questions, in their order"
            )
        return self.with_baseline(
            benchmark.items_table(
                (str(number), category, 1, text, None, None) for number, (text, category) in enumerate(asked, start=1)
            )
        )

    def read_outputs(self, path: str, items: pl.DataFrame) -> dict[tuple[str, int], str | None]:
        """Found by the instruction."""
        outputs = read_outputs(path)
        return {
            (question, turn): outputs.get(text)
            for question, turn, text in items.select("question_id", "turn", "question").iter_rows()
        }

    def games(self, exchange: benchmark.Exchange, prompts: Mapping[str, Prompt]) -> list[benchmark.Game]:
        """One judgment, in the order that is drawn from the instruction; equal outputs are a draw."""
        [turn] = exchange.turns
        if turn.lacking:
            return [exchange.game(1, _MODE, "single", None, reading=scores.Judgment(reason=turn.lacking))]
        order: scores.Order = "model_first" if is_switched(turn.question) else "baseline_first"
        if turn.response == turn.baseline:
            return [exchange.game(1, _MODE, order, None, reading=scores.Judgment(_DRAW, how=_EQUAL))]
        shown = (neutralise(text, _TAGS) for text in (turn.question, *turn.shown(order)))
        text = prompts[_PROMPT].render(**dict(zip(("instruction", *_TAGS), shown, strict=True)))
        return [exchange.game(1, _MODE, order, text, prompt=_PROMPT)]

    def read(self, game: benchmark.Game, text: str, logprobs: Mapping[str, float]) -> scores.Judgment | Unparsed:
        """The preference (1-2): from the log-probabilities where they hold an identifier, else from the reply."""
        switched = game.order == "model_first"
        found = preference_from_logprobs(logprobs, switched=switched)
        if not isinstance(found, Unparsed):
            return scores.Judgment(found, how=_LOGPROBS)
        chosen = preference_from_choice(text, switched=switched)
        return chosen if isinstance(chosen, Unparsed) else scores.Judgment(chosen, how=_CHOICE)

    def figures(
        self, exchanges: Sequence[benchmark.Exchange], judged: Mapping[scores.Place, scores.Judgment], *, whole: bool
    ) -> dict[str, statistics.Estimate]:
        """Win rates; of all questions also the length-controlled one, and what standing first is worth."""
        rows, limit = _annotations(exchanges, judged), self.settings.max_failed_share
        if not whole:
            # Questions that name no set are no category.
            named = any(each.category for each in exchanges)
            return {"win_rate": measure_annotations(rows, max_failed_share=limit).win_rate} if named else {}
        tables = read_length_tables(self.settings.difficulty, self.settings.anchors)
        found = measure_annotations(rows, tables or length_control.length_alone(len(rows)), max_failed_share=limit)
        sources = f"by {_sources(judged)}"
        controlled, note = "length_controlled_minimal", "by lengths alone, never beside a published rate"
        if tables is not None:
            doubt = "far from the raw rate: look at the lengths" if found.length_is_doubtful else ""
            controlled, note = "length_controlled_win_rate", doubt
        figures = {
            "win_rate": found.win_rate.with_note(sources),
            "discrete_win_rate": found.discrete.with_note(sources),
            controlled: found.controlled.with_note(note),
        }
        if found.win_rate.value is not None:
            figures["position_gap"] = replace(
                found.position.with_note(scores.position_note(found.position)), failed=found.win_rate.failed
            )
        return figures

    def values(
        self, exchanges: Sequence[benchmark.Exchange], judged: Mapping[scores.Place, scores.Judgment]
    ) -> dict[str, scores.ItemValues]:
        """The probability of a win, in per cent."""
        return {
            "win_rate": {
                each.question_id: None if row.win is None else 100 * row.win
                for each, row in zip(exchanges, _annotations(exchanges, judged), strict=True)
            }
        }


def is_switched(instruction: str) -> bool:
    """Whether the model's output is shown first: drawn from the instruction alone, so equal for every model.

    The draw is the original's (its seed is 0), since its judgments are only met in its orders.
    """
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True], k=1)[0]


def preference_from_logprobs(logprobs: Mapping[str, float], *, switched: bool) -> float | Unparsed:
    """The preference (1-2) that the first token's log-probabilities give.

    Args:
        logprobs: token → natural logarithm of its probability, for the most likely first tokens. An identifier that
            is not among them has probability 0; all other tokens are disregarded.
        switched: whether the model's output was shown first.
    """
    found = {token: logprobs[token] for token in (_FIRST, _SECOND) if token in logprobs}
    highest = max(found.values(), default=-math.inf)
    if highest == -math.inf:
        return Unparsed("no identifier among the tokens")
    first, second = (math.exp(found[token] - highest) if token in found else 0.0 for token in (_FIRST, _SECOND))
    return _unswitched(first / (first + second), switched)


def preference_from_choice(reply: str | None, *, switched: bool) -> float | Unparsed:
    """1 or 2, from a reply that is an identifier and nothing else but blanks, quotation marks or brackets."""
    choice = (reply or "").strip(_AROUND_A_CHOICE)
    return _unswitched(float(choice == _FIRST), switched) if choice in (_FIRST, _SECOND) else Unparsed("no identifier")


def kept_preference(stored: float | None) -> float | None:
    """The preference (1-2) that a stored one means; None when the judgment failed.

    Failed is what is None, NaN or off the scale (-1 is the original's mark). 0 is an old spelling of a draw.
    """
    if stored == 0:
        return _DRAW
    return stored if stored is not None and _BASELINE <= stored <= _MODEL else None


def measure_annotations(
    judged: Sequence[length_control.Annotation],
    tables: length_control.LengthTables | None = None,
    *,
    max_failed_share: float = statistics.MAX_FAILED_SHARE,
) -> AlpacaEvalFigures:
    """Win rates, and with ``tables`` the length-controlled one; above ``max_failed_share`` (0-1) of failures, none.

    Raises:
        ConfigError: there are more judgments than rows in the difficulty table.
    """
    if tables is not None and len(judged) > len(tables.difficulty):
        raise errors.ConfigError(
            f"{len(judged)} annotations, but a difficulty table of {len(tables.difficulty)} instructions; "
            "give the table of the same instructions, and the annotations of one model"
        )
    shares = [None if each.win is None else 100 * each.win for each in judged]
    outcomes = [None if share is None else 50.0 if share == 50 else 100.0 * (share > 50) for share in shares]
    raw, discrete = (
        statistics.estimate_mean(each, scale=statistics.PERCENT, max_failed_share=max_failed_share)
        for each in (shares, outcomes)
    )
    if raw.value is None or tables is None:
        controlled = length_control.ControlledRate(None, note=raw.note or "needs the difficulty table and the anchors")
    else:
        controlled = length_control.control_length(judged, tables)
    return AlpacaEvalFigures(
        raw,
        discrete,
        outcomes=f"{outcomes.count(100):,} wins, {outcomes.count(0):,} losses, {outcomes.count(50):,} draws",
        # A prediction for all instructions, with the count of the judgments.
        controlled=replace(controlled, n=raw.n, failed=raw.failed),
        position=measure_position(judged),
    )


def measure_position(judged: Sequence[length_control.Annotation]) -> statistics.Estimate:
    """How much standing first raises the model's win rate, in points of 100.

    Between different instructions, since each is shown in one order only: the rate where the model's output stood
    first minus the rate where it stood second. `tapir_core.judging.agreement.favoured_position` reads it.
    """
    known = [(each.switched, 100 * each.win) for each in judged if each.win is not None]
    first, second = ([win for switched, win in known if switched is side] for side in (True, False))
    return statistics.estimate_difference(first, second)


def read_annotations(path: str) -> AnnotationFile:
    """Judgments, and whose they are.

    Raises:
        ConfigError: the file cannot be read, holds no judgment or those of several models, annotators or baselines, or
            has a row that is none.
    """
    rows = read_rows(path, lambda row: (_annotation(row), {who: _name(row, who) for who in _NAMES}), "annotation")
    found = {who: list(dict.fromkeys(name for _, names in rows if (name := names[who]) is not None)) for who in _NAMES}
    if several := [f"{len(names)} {who}s ({first_few(names, 5)})" for who, names in found.items() if len(names) > 1]:
        raise errors.ConfigError(
            f"{path!r} holds judgments of {' and '.join(several)}; give those of one, since figures are of one model, "
            "by one annotator, against one baseline"
        )
    return AnnotationFile(
        [each for each, _ in rows], "; ".join(f"{who}: {name}" for who, names in found.items() for name in names)
    )


def read_outputs(path: str) -> dict[str, str | None]:
    """Instruction → output of one model: a JSON list or JSON lines with ``instruction`` and ``output``.

    An output that failed (`null` or ``$ERROR$``) is nothing.

    Raises:
        ConfigError: the file cannot be read, has a row that is no output, or different outputs to one instruction.
    """
    outputs = read_rows(path, _output, "output")
    # The first of several counts for the comparison below, and there is no other.
    found = dict(reversed(outputs))
    twice = {
        instruction: (found[instruction], output) for instruction, output in outputs if found[instruction] != output
    }
    if twice:
        shown = [
            f"{_begin(instruction)}: {_begin(first)} and {_begin(second)}"
            for instruction, (first, second) in list(twice.items())[:5]
        ]
        raise errors.ConfigError(
            f"{path!r} has different outputs to {len(twice)} of its instructions ({'; '.join(shown)}); keep one of each"
        )
    return found


def read_length_tables(difficulty: str | None, anchors: str | None) -> length_control.LengthTables | None:
    """What length control needs, from the files of `read_difficulty` and `read_anchors`; nothing without both.

    Raises:
        ConfigError: as these do.
    """
    if difficulty is None or anchors is None:
        return None
    table = length_control.read_difficulty(difficulty)
    return length_control.LengthTables(table, read_anchors(anchors, table))


def read_anchors(path: str, difficulty: list[float]) -> length_control.SoftRows:
    """Judgments of the anchor models: annotations, or the original's CSV with lengths already standardised.

    ``difficulty`` is that of annotations; the CSV brings its own.

    Raises:
        ConfigError: the file cannot be read, has a row that is none, or more rows of a model than the table.
    """
    text = read_text(path)
    if text.lstrip()[:1] not in ("[", "{"):
        return length_control.read_standardised(text, path)
    models = statistics.grouped(read_rows(path, lambda row: (_name(row, "model"), _annotation(row)), "annotation"))
    longest = max(map(len, models.values()))
    if longest > len(difficulty):
        raise errors.ConfigError(
            f"{path!r} has {longest} rows of one model, the difficulty table only {len(difficulty)}"
        )
    return length_control.join_rows(
        [length_control.soft_rows(judged, difficulty, anchors=True) for judged in models.values()]
    )


def _annotations(
    exchanges: Sequence[benchmark.Exchange], judged: Mapping[scores.Place, scores.Judgment]
) -> list[length_control.Annotation]:
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
        rows.append(length_control.Annotation(preference, len(own or ""), len(other or ""), switched))
    return rows


def _sources(judged: Mapping[scores.Place, scores.Judgment]) -> str:
    """What the preferences were read from: `log-probabilities`, `parsed choices`, or how many from each."""
    counts = Counter(each.how for each in judged.values() if each.value is not None and each.how != _EQUAL)
    if len(counts) == 1:
        return next(iter(counts))
    return " and ".join(f"{how} ({number})" for how, number in sorted(counts.items())) or _EQUAL


def _unswitched(first_is_better: float, switched: bool) -> float:
    return _BASELINE + first_is_better if switched else _MODEL - first_is_better


def _output(fields: Mapping[str, Any]) -> tuple[str, str | None]:
    if "output" not in fields:
        raise BadRecordError(f"no output (found {', '.join(map(str, fields)) or 'nothing'})")
    return text_of(fields, "instruction"), answer_of(fields["output"], "output")


def _begin(text: str | None) -> str:
    return "none" if text is None else repr(text[:60])


def _name(fields: Mapping[str, Any], who: str) -> str | None:
    found = next((fields[field] for field in _NAMES[who] if field in fields), None)
    return None if found is None else str(found)


def _annotation(fields: Mapping[str, Any]) -> length_control.Annotation:
    if "preference" not in fields:
        raise BadRecordError(f"no preference (found {', '.join(map(str, fields)) or 'nothing'})")
    stored, switched = fields["preference"], fields.get("switched")
    if stored is not None and (isinstance(stored, bool) or not isinstance(stored, int | float)):
        raise BadRecordError(f"preference must be a number or null, got {stored!r}")
    if not isinstance(switched, bool | None):
        raise BadRecordError(f"switched must be true, false or null, got {switched!r}")
    return length_control.Annotation(
        kept_preference(stored),
        baseline_chars=_length(fields, "len_baseline", "output_1"),
        model_chars=_length(fields, "len_model", "output_2"),
        switched=switched,
    )


def _length(fields: Mapping[str, Any], length: str, output: str) -> int:
    if isinstance(found := fields.get(length), int):
        return found
    if isinstance(text := fields.get(output), str):
        return len(text)
    raise BadRecordError(f"neither {length} (a whole number) nor {output} (a text)")
