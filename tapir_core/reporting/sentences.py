"""What a report says in words: state, gain, who taught and judged, the run in the UI, a retry of its judge."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tapir_core.evaluation.statistics import PairedDifference
from tapir_core.paths import REPORT
from tapir_core.summary.formats import NOTHING, number, percent, score_in_words, student_name
from tapir_core.summary.types import RunSummary, Score

__all__ = [
    "accuracy_note",
    "changes_sentence",
    "gain_sentence",
    "next_sentence",
    "nothing_sentence",
    "report_path",
    "report_sentence",
    "retried_sentence",
    "scores_sentence",
    "standin_sentence",
    "state_sentence",
    "ui_sentence",
]


_SHOWN_BELOW = 0.05
"""p up to which a gain is told, as its 95 % interval tells one."""


def state_sentence(summary: RunSummary) -> str:
    """Whether the run is done, and if not, what comes next."""
    rounds = _rounds_trained(summary)
    if summary.stopped:
        return f"Stopped early, {rounds}: {summary.stopped}."
    if summary.next_stage is not None:
        return f"Unfinished, {next_sentence(summary)} The same command goes on from there."
    best = f" Best round by the dev split: {student_name(summary.best)}." if summary.best is not None else ""
    return f"Done, {rounds}.{best}"


def next_sentence(summary: RunSummary) -> str:
    """How far the run is, and its next stage."""
    return f"{_rounds_trained(summary)}. Next stage: {summary.next_stage or 'none'}."


def gain_sentence(summary: RunSummary) -> str:
    """What training by curriculum gained over S_0; empty before the first round is evaluated."""
    if summary.gain is None:
        return ""
    before, after = summary.round(summary.gain.before), summary.round(summary.gain.after)
    values = [each.score("test") if each is not None else None for each in (before, after)]
    spans = " to ".join(percent(value.value) if value else NOTHING for value in values)
    names = f"{student_name(summary.gain.before)} to {student_name(summary.gain.after)}"
    paired = summary.gain.paired
    found = paired.difference
    if found.value is None:
        return f"Test accuracy from {names}: {spans}, no gain is told: {found.why}."
    interval = found.why if found.low is None else f"95 % interval {found.low:+.1f} to {found.high:+.1f}"
    return (
        f"Test accuracy from {names}: {spans}, {found.value:+.1f} percentage points ({interval}, p = "
        f"{number(paired.p_value, 4)}) on the same {found.n} instructions, {paired.n_failed} failed{_reading(paired)}."
    )


def scores_sentence(summary: RunSummary, numbers: Sequence[int]) -> str:
    """Held-out accuracy of these students, on a line."""
    told = []
    for each in filter(None, map(summary.round, numbers)):
        scores = {split: each.score(split) for split in ("dev", "test")}
        told += [f"{student_name(each.number)} {split} {score_in_words(one)}" for split, one in scores.items() if one]
    return f"Held-out accuracy with 95 % interval: {'; '.join(told)}." if told else ""


def accuracy_note(scores: Iterable[Score | None]) -> str:
    """What held-out accuracies are, how the answers were drawn, and why some have no figure; empty of none."""
    found = [each for each in scores if each is not None]
    settings = dict.fromkeys(f"Judged by exact match of the final result; {each.settings}." for each in found)
    whys = dict.fromkeys(f"No figure: {each.note}." for each in found if each.value is None)
    return " ".join([_INTERVALS, *settings, *whys]) if found else ""


def standin_sentence(summary: RunSummary) -> str:
    """Says plainly that no LLM taught or judged; empty when both roles are models."""
    if not summary.standins:
        return ""
    who = " and ".join(summary.standins)
    return (
        f"The {who} of this run {'is' if len(summary.standins) == 1 else 'are'} the stand-in: rules for verifiable "
        f"instructions, no LLM. The run shows that the whole loop works, not what a strong teacher would give."
    )


def ui_sentence(summary: RunSummary) -> str:
    """How to see the run in Prefect's UI."""
    return (
        f"To see this run in the Prefect UI: start `tapir up` for the run root `{summary.root}`, open the address that "
        f"it prints, and look for the flow run {summary.name} (tag run-{summary.name}) and its artifacts."
    )


def report_sentence(summary: RunSummary) -> str:
    """Where the report lies and how it opens: no page of a server may open a file, so nothing here is a link."""
    path = report_path(summary)
    if "://" in path:
        return f"Report: `{path}`. `tapir move {summary.name} runs --root {summary.root}` brings the run to a folder."
    return (
        f"Report: `{Path(path).absolute().as_uri()}`. A browser does not open a file from this page: copy the address "
        "into it, on the machine that holds the run."
    )


def report_path(summary: RunSummary) -> str:
    """Where the report lies."""
    return f"{summary.root}/{summary.name}/{REPORT}"


def nothing_sentence(*, also_terminal: bool) -> str:
    """Of a retry of the judge: nothing was missing."""
    return "Nothing to ask again: no verdict is missing" + ("." if also_terminal else "; see --also terminal.")


def retried_sentence(counts: Mapping[str, int]) -> str:
    """What a round lacked before its judge was asked again, and lacks now: ``counts`` as *retry-judge* gives them."""
    return (
        f"Round {counts['round']}: {counts['missing_before']} verdicts missing before, {counts['missing_after']} now; "
        f"{counts['unscored_before']} unscored before, {counts['unscored_after']} now."
    )


def changes_sentence(stale: Sequence[object], *, redone: bool) -> str:
    """Which stages the verdicts of a retry change."""
    if not stale:
        return "No stage changes."
    done = " and that were redone" if redone else ""
    return f"Stages that the new verdicts change{done}: {', '.join(map(str, stale))}."


def _reading(paired: PairedDifference) -> str:
    """On which side of 0 the interval lies, where the test says so, too: of few changes the two may disagree."""
    found = paired.difference
    if found.low is None or found.high is None or paired.p_value is None:
        return ""
    if found.low <= 0 <= found.high:
        return "; the interval holds 0, so no gain is shown"
    side = "above" if found.low > 0 else "below"
    if paired.p_value > _SHOWN_BELOW:
        return f"; the interval lies {side} 0, but p is above {_SHOWN_BELOW}, so no gain is shown"
    return f"; the interval lies {side} 0"


def _rounds_trained(summary: RunSummary) -> str:
    trained = [each.number for each in summary.rounds if each.mixture is not None and each.number > 0]
    return f"{len(trained)} of {summary.planned_rounds} rounds trained"


_INTERVALS = (
    "Accuracy is the per cent of answers with the right final result, with Wilson's 95 % interval; what failed is in "
    "no figure."
)
