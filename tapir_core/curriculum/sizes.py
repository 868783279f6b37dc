"""Sizes that a configuration leaves to its pool: what `"auto"` becomes for a pool of so many rows, and why.

S_0 takes a quarter of the instructions that can be trained on: in the one trial of it, 16 % left the rounds something
to teach, and 32 % did not (docs/LOG.md, "sizes of the quickstart"). A round takes as many examples as its two parts are
likely to be filled with at its α: the easy part by the easy instructions, the hard part by the seeds and a new
instruction for each of them; the paper's first round has 21,000 hard examples of 11,000 seeds. A round that chooses
nothing by difficulty takes the whole pool, and of a small one new instructions up to 512 examples: so far they were
shown to help, and with 1,200 instructions they were not (docs/LOG.md, E2 and E5). More than three for an instruction
are hardly new.

Limits: which instructions the teacher answers, and of which task types they are, is not known yet. A round shrinks
further where its easy part turns out to lack rows. Held-out sizes have no `"auto"`: a judged held-out set is a share of
the pool already.
"""

from typing import NamedTuple

from tapir_core.config import EndpointConfig, RunConfig
from tapir_core.config.load import spell_out_rounds
from tapir_core.curriculum.mixture import size_round

_OF_THE_POOL = 4
"""S_0 takes one of so many instructions."""
_SMALL, _MOST_NEW = 512, 3
"""Examples up to which a round without difficulty has new instructions written, and how many for each instruction."""


class Priors(NamedTuple):
    """Shares that are likely of a teacher and a judge of one kind."""

    usable: float
    """Of instructions, with a usable teacher answer and a task type."""
    hard: float
    """Of scored instructions, above δ, where a threshold selects."""
    easy: float
    """Of scored instructions that are no seeds, those that the easy part may take: the teacher's answer is good
    enough, and the student's no better."""
    passing: float
    """Of new instructions, those that pass the gates on their text and get a label that is wanted."""


MODEL = Priors(usable=0.98, hard=0.3, easy=0.85, passing=0.8)
"""Large language models behind an API."""

STANDIN = Priors(usable=1.0, hard=0.7, easy=1.0, passing=0.99)
"""Our rule-based stand-in, on its own verifiable instructions."""


def priors_of(endpoint: EndpointConfig) -> Priors:
    """What is likely of an endpoint."""
    return STANDIN if endpoint.is_standin else MODEL


def likely_parts(config: RunConfig, number: int, rows: float) -> tuple[int, int]:
    """Of ``rows`` instructions the likely seeds of a round, and those that its easy part may take."""
    priors, share = priors_of(config.teacher.endpoint), config.round(number).selection.fixed_share
    seeds = int(rows * (priors.hard if share is None else share))
    return seeds, int((rows - seeds) * (1.0 if config.verdict_round(number) is None else priors.easy))


def are_open(config: RunConfig) -> bool:
    """Whether a size is left to the pool."""
    return "auto" in (
        config.basic_tuning.examples,
        *(config.round(number).examples for number in config.round_numbers),
    )


def auto_sizes(config: RunConfig, rows: int, own: int) -> tuple[RunConfig, tuple[str, ...]]:
    """The configuration with the numbers that a pool of ``rows`` makes of `"auto"`, and a sentence for each.

    The teacher itself is asked about ``own`` of them; the others bring their answers.
    """
    held_out = config.data.judged.sizes if config.data.judged else lambda *_: {}
    left, most = (
        max(1, rows - own + each - sum(held_out(rows - own + each, each).values()))
        for each in (int(own * priors_of(config.teacher.endpoint).usable), own)
    )
    basic, rounds, said = config.basic_tuning, dict(config.rounds), list[str]()
    if basic.examples == "auto":
        size = max(1, left // _OF_THE_POOL)
        basic = basic.model_copy(update={"examples": size})
        said.append(
            f"basic_tuning.examples = auto: {size:,} for S_0, a quarter of the {left:,} instructions that are likely "
            "to be usable, since the rounds need something left to teach"
        )
    open_rounds = [number for number in config.round_numbers if config.round(number).examples == "auto"]
    if open_rounds:
        rounds = spell_out_rounds(config).rounds
    for number in open_rounds:
        everything = config.round(number).selection.fixed_share == 1 and not config.waves(number)
        size, why = _size_of(config, number, of := most if everything else left)
        rounds[str(number)] = rounds[str(number)].model_copy(update={"examples": size})
        said.append(f"rounds.{number}.examples = auto: {size:,}, since of {of:,} instructions {why}")
    return config.model_copy(update={"basic_tuning": basic, "rounds": rounds}), tuple(said)


def _size_of(config: RunConfig, number: int, left: int) -> tuple[int, str]:
    """Examples of a round, of ``left`` instructions, and what limits them."""
    settings, waves = config.round(number), config.waves(number)
    if settings.selection.fixed_share == 1:
        examples = max(left, min(_SMALL, (1 + _MOST_NEW) * left) if waves else 0)
        new = f"new ones are written up to {examples:,}" if examples > left else "no new ones are written"
        return examples, f"all that are usable are trained on, and {new}"
    alpha, (seeds, easy) = settings.alpha or 0.0, likely_parts(config, number, left)
    filled = round(seeds * (2 if waves else 1) / alpha) if alpha else left
    examples = max(1, size_round(filled, alpha, easy).examples)
    if examples < filled or not alpha:
        return examples, f"some {easy:,} are likely to be easy, which reaches no further at α = {alpha:g}"
    new = ", and as many new instructions are written" if waves else ""
    return examples, f"some {seeds:,} are likely to be seeds{new}, which reaches no further at α = {alpha:g}"
