"""Sizes that a configuration leaves to its pool: what `"auto"` becomes, before a run is opened, and why.

S_0 takes a quarter of the instructions that can be trained on: in the one trial of it, 16 % left the rounds something
to teach, and 32 % did not (docs/LOG.md, "sizes of the quickstart"). A round takes as many examples as its two parts are
likely to be filled with at its α: the easy part by the easy instructions, the hard part by the seeds and a new
instruction for each of them; the paper's first round has 21,000 hard examples of 11,000 seeds. How many are seeds and
easy is what the estimate takes to be likely. A round that chooses nothing by difficulty takes the whole pool, and of a
small one new instructions up to 512 examples: so far they were shown to help, and with 1,200 instructions they were not
(docs/LOG.md, E2 and E5). More than three for an instruction are hardly new.

Limits: which instructions the teacher answers, and of which task types they are, is not known yet. A round shrinks
further where its easy part turns out to lack rows. Held-out sizes have no `"auto"`: a judged held-out set is a share of
the pool already.
"""

from tapir_core import curriculum
from tapir_core.config import RunConfig
from tapir_core.config.load import spell_out_rounds, with_changes
from tapir_core.estimate.workload import likely_parts, priors_of
from tapir_core.sources import read_pool_of

_OF_THE_POOL = 4
"""S_0 takes one of so many instructions."""
_SMALL, _MOST_NEW = 512, 3
"""Examples up to which a round without difficulty has new instructions written, and how many for each instruction."""


def settle_sizes(config: RunConfig) -> tuple[RunConfig, tuple[str, ...]]:
    """The configuration with numbers for `"auto"`, and a sentence for each; where there is none, nothing is read.

    Raises:
        ConfigError: the pool cannot be read, or has bad rows.
    """
    rounds = [number for number in config.round_numbers if config.round(number).examples == "auto"]
    is_basic = config.basic_tuning.examples == "auto"
    if not (rounds or is_basic):
        return config, ()
    rows = read_pool_of(config.data.pool, config.data, config.run.seed).rows.height
    usable = int(rows * priors_of(config.teacher.endpoint).usable)
    left = max(1, usable - (sum(config.data.judged.sizes(usable).values()) if config.data.judged else 0))
    changes, said = dict[str, int](), list[str]()
    if is_basic:
        changes["basic_tuning.examples"] = basic = max(1, left // _OF_THE_POOL)
        said.append(
            f"basic_tuning.examples = auto: {basic:,} for S_0, a quarter of the {left:,} instructions that are likely "
            "to be usable, since the rounds need something left to teach"
        )
    for number in rounds:
        size, why = _size_of(config, number, left)
        changes[f"rounds.{number}.examples"] = size
        said.append(f"rounds.{number}.examples = auto: {size:,}, since of {left:,} instructions {why}")
    return with_changes(spell_out_rounds(config) if rounds else config, changes), tuple(said)


def _size_of(config: RunConfig, number: int, left: int) -> tuple[int, str]:
    """Examples of a round, of ``left`` instructions, and what limits them."""
    settings, waves = config.round(number), config.curriculum.expansion.max_waves
    if settings.selection.fixed_share == 1:
        examples = max(left, min(_SMALL, (1 + _MOST_NEW) * left) if waves else 0)
        new = "new ones are written up to" if examples > left else "no more than these are worth"
        return examples, f"all are trained on, and {new} {examples:,}"
    alpha, (seeds, easy) = settings.alpha or 0.0, likely_parts(config, number, left)
    filled = round(seeds * (2 if waves else 1) / alpha) if alpha else left
    examples = max(1, curriculum.size_round(filled, alpha, easy).examples)
    if examples < filled or not alpha:
        return examples, f"some {easy:,} are likely to be easy, which reaches no further at α = {alpha:g}"
    new = ", and as many new instructions are written" if waves else ""
    return examples, f"some {seeds:,} are likely to be seeds{new}, which reaches no further at α = {alpha:g}"
