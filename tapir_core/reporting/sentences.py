"""What a report says in words: state, gain, who taught and judged, the run in the UI, a retry of its judge.

The words stand in templates beside this module, all of which are filled in here. Text in pages is escaped; only a
plot's SVG, which `tapir_core.reporting.figure` made, enters as it is.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from inspect import getmembers, isfunction
from pathlib import Path

import jinja2

from tapir_core.paths import REPORT
from tapir_core.summary import formats
from tapir_core.summary.formats import student_name
from tapir_core.summary.types import RunSummary, Score


def render(template: str, **fields: object) -> str:
    """``template``, a file beside this module, filled in; a field that it lacks is an error."""
    return _environment().get_template(template).render(**fields)


def say(name: str, *fields: object) -> str:
    """The sentence ``name`` of ``sentences.jinja2`` as plain text; empty where there is nothing to say."""
    sentence: str = getattr(_environment().get_template("sentences.jinja2").module, name)(*fields)
    return re.sub(r"\s*\n\s*", " ", sentence).strip()


def state_sentence(summary: RunSummary) -> str:
    """Whether the run is done, and if not, what comes next."""
    return say("state", summary)


def next_sentence(summary: RunSummary) -> str:
    """How far the run is, and its next stage."""
    return say("next", summary)


def gain_sentence(summary: RunSummary) -> str:
    """What training by curriculum gained over S_0; empty before the first round is evaluated."""
    return say("gain", summary)


def scores_sentence(summary: RunSummary, numbers: Sequence[int]) -> str:
    """Held-out accuracy of these students, on a line."""
    found = [
        (student_name(each.number), split, each.score(split))
        for each in filter(None, map(summary.round, numbers))
        for split in ("dev", "test")
    ]
    return say("scores", [each for each in found if each[2] is not None])


def accuracy_note(scores: Iterable[Score | None]) -> str:
    """What held-out accuracies are, how the answers were drawn, and why some have no figure; empty of none."""
    return say("accuracy_note", [each for each in scores if each is not None])


def standin_sentence(summary: RunSummary) -> str:
    """Says plainly that no LLM taught or judged; empty when both roles are models."""
    return say("standin", summary)


def ui_sentence(summary: RunSummary) -> str:
    """How to see the run in Prefect's UI."""
    return say("ui", summary)


def report_sentence(summary: RunSummary) -> str:
    """Where the report lies and how it opens."""
    path = report_path(summary)
    return say("report", summary, path, "" if "://" in path else Path(path).absolute().as_uri())


def report_path(summary: RunSummary) -> str:
    """Where the report lies."""
    return f"{summary.root}/{summary.name}/{REPORT}"


def nothing_sentence(*, also_terminal: bool) -> str:
    """Of a retry of the judge: nothing was missing."""
    return say("nothing", also_terminal)


def retried_sentence(counts: Mapping[str, int]) -> str:
    """What a round lacked before its judge was asked again, and lacks now: ``counts`` as *retry-judge* gives them."""
    return say("retried", counts)


def changes_sentence(stale: Sequence[object], *, redone: bool) -> str:
    """Which stages the verdicts of a retry change."""
    return say("changes", stale, redone)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(("html.jinja2",), default_for_string=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(getmembers(formats, isfunction), NOTHING=formats.NOTHING, say=say)
    return made
