"""The judge report: how far the judge of a round can be trusted, on one page that needs nothing else.

The page is made from the run folder alone, so it can be made again at any time. How to read it: docs/judge.md.
"""

from markupsafe import Markup

from tapir_core.paths import judge_report_file
from tapir_core.reporting import judge_plots as plots
from tapir_core.reporting.judge_round import JudgeRound
from tapir_core.reporting.judge_tables import (
    agreement_sentence,
    correlation,
    judge_tables,
    length_sentence,
    points,
    position_sentence,
    unscored_sentence,
)
from tapir_core.reporting.page import Fact, Plot, render_page
from tapir_core.run_folder import RunFolder
from tapir_core.summary.formats import count, percent, round_name

__all__ = ["render_judge_report", "write_judge_report"]


def write_judge_report(run: RunFolder, found: JudgeRound) -> str:
    """Write the judge report of a round into the run folder and say where it is."""
    file = judge_report_file(found.number)
    run.storage.write_bytes(file, render_judge_report(found).encode())
    return f"{run.ref.root}/{run.ref.name}/{file}"


def render_judge_report(found: JudgeRound) -> str:
    """The page. Everything that is text is escaped."""
    sentences = (position_sentence, agreement_sentence, length_sentence, unscored_sentence)
    return render_page(
        "judge_report.html.jinja2",
        found=found,
        round_name=round_name(found.number),
        sentences=[text for say in sentences if (text := say(found))],
        facts=_facts(found),
        plots=_plots(found),
        tables={name.removeprefix("judge-").replace("-", "_"): table for name, table in judge_tables(found).items()},
    )


def _facts(found: JudgeRound) -> list[Fact]:
    """The few figures at the top of the page."""
    facts = [
        Fact("Verdicts", count(found.verdicts)),
        Fact(
            "Instructions scored in every order", f"{count(found.whole.scores.height)} of {count(found.instructions)}"
        ),
    ]
    if found.whole.agreement is not None:
        gap, kappa = found.whole.agreement.gap.value, found.whole.agreement.kappa.value
        facts += [
            Fact("Order gap, points", "not defined" if gap is None else points(gap)),
            Fact("Agreement of the orders, κ", "not defined" if kappa is None else correlation(kappa)),
        ]
    effect, share = found.whole.length.difference.value, found.whole.unscored.share.value
    return [
        *facts,
        Fact("MFD and length difference, ρ", "not defined" if effect is None else correlation(effect)),
        Fact("Unscored", "not defined" if share is None else percent(share)),
    ]


def _plots(found: JudgeRound) -> dict[str, Plot]:
    """The plots for which there is something to show."""
    shown: dict[str, Plot] = {}
    if found.whole.agreement is not None and found.whole.pairs.height:
        caption = (
            "One instruction counts once. Right of 0 the teacher's answer gains by being shown first. Dashed: the "
            "mean; the band around it is its 95 % interval."
        )
        shown["gap"] = Plot("Order gap", Markup(plots.plot_gap(found.whole.pairs, found.whole.agreement.gap)), caption)
        caption = (
            "A dot's area is the number of instructions there. On the dashed line both orders give the same MFD; a "
            "judge that favours the first answer lies above it."
        )
        shown["orders"] = Plot("One order against the other", Markup(plots.plot_orders(found.whole.pairs)), caption)
    if found.whole.scores.height:
        caption = "Answers in ten groups of equal size, from short to long. Bars are 95 % intervals of the mean."
        shown["length"] = Plot("Score and length", Markup(plots.plot_length(found.whole.scores)), caption)
    if found.whole.unscored.reasons:
        caption = "An unscored verdict is in no mean; its instruction is in neither seeds nor easy."
        shown["unscored"] = Plot("Unscored", Markup(plots.plot_unscored(found.whole.unscored.reasons)), caption)
    return shown
