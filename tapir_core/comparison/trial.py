"""What a run's money and hours are best spent on, tried on a few hundred rows of its own pool (`tapir plan --trial`).

Each method is a run of its own: one round on two thirds of the rows (`MORE`: on all of them), or the same with more
answers, new instructions, or another objective. What a method gains is the paired difference of its last student to
plain answers on two thirds of the rows, over the same held-out items; by USD and by hours it is divided by what it took
beyond those. One run seed: the interval covers items and what a rerun changes, and no other rows.

A method is chosen where it is better than all others beyond the 90 % intervals (`choose`); else it is undecided.
Limits: what pays at a few hundred rows need not pay at many; the price of the machine is not known, so that hours stand
beside USD.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from tapir_core import errors, randomness, sources, statistics
from tapir_core.comparison.outcome import recipe_stages
from tapir_core.comparison.plan import READY
from tapir_core.config import RunConfig, load
from tapir_core.config.checks import check_config
from tapir_core.run_folder import RunFolder
from tapir_core.stages import TRAIN
from tapir_core.summary import RunReader, marks_on_test, summarise
from tapir_core.summary.types import ROLES, StageSummary

PLAIN, MORE = "plain", "prompts"

METHODS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    PLAIN: ("plain answers to two thirds of the prompts", ()),
    MORE: ("plain answers to all prompts", ()),
    "answers": ("two answers to a prompt", ("teacher.answers_per_prompt=2",)),
    "expansion": (
        "new instructions",
        ('rounds.1.selection={type="random"}', "rounds.1.alpha=1.0", "curriculum.expansion.max_waves=3"),
    ),
    "prefer": (
        "the teacher's answers over the student's own",
        (
            "rounds.1.objective=prefer",
            'rounds.1.selection={type="hard_share"}',
            "rounds.1.alpha=",
            "rounds.1.learning_rate=",
        ),
    ),
    "on_policy": ("the student's own answers, scored", ("rounds.1.objective=on_policy", "rounds.1.learning_rate=")),
}
"""Method → what it is called, and what it changes in plain answers, as `--set` writes it."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a method came to in its trial."""

    method: str
    usd: float
    """Of the answers that make its students, those from the store included."""
    hours: float
    """The same of time: answers from the store count as they took where they were asked for, trainings over all their
    starts."""
    marks: Mapping[str, float | None]
    """Item of the test split → 100 where it is right, 0 where not."""


Span = tuple[float, float, float]
"""A figure and both ends of its 90 % interval."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A method beside plain answers."""

    tried: Tried
    points: Span | None = None
    """Share of items (0-1) that it has right more; None of plain answers, and where too few are marked by both."""
    more_usd: float = 0.0
    more_hours: float = 0.0
    """What it took beyond plain answers; 0 where that is no more than `_NO_MORE` of those, NaN where not known."""

    def by(self, amount: float) -> Span | None:
        """Points for one of an amount; None where it took none, or nobody knows how much."""
        if self.points is None or not amount > 0:
            return None
        value, low, high = self.points
        return value / amount, low / amount, high / amount


_NO_MORE = 0.01
"""Share of what plain answers took; no more than that counts as nothing."""
_FEWEST_ITEMS = 5
"""Of fewer the 90 % interval holds too seldom: of equal students on 3 items 11 % were shown to gain."""


def settings_of(config: RunConfig, method: str, rows: int = 0) -> list[str]:
    """What makes one round of this method of a configuration with ``rows`` instructions, as `--set` writes it."""
    examples = rows * 3 // 2 if rows and method == "expansion" else "auto"
    drawn = method == "answers" and config.teacher.answering.temperature == 0
    return [
        *READY["random_once"].settings(config),
        "curriculum.expansion.max_waves=0",
        "curriculum.refine=false",
        "teacher.answers_per_prompt=1",
        'basic_tuning.examples="auto"',
        f"rounds.1.examples={examples}",
        *METHODS[method][1],
        *(["teacher.answering.temperature=0.7"] if drawn else []),
    ]


def method_config(config: RunConfig, method: str, rows: int = 0) -> RunConfig:
    """The configuration with one round of this method in place of its own, for a pool of ``rows`` instructions.

    Raises:
        ConfigError: it cannot be configured so.
    """
    config = load.spell_out_rounds(config)
    made = load.replace_values(config, settings_of(config, method, rows), source=f"method {method}")
    if problems := check_config(made):
        raise errors.ConfigError(problems, source=f"method {method}")
    return made


def trial_config(config: RunConfig, method: str, rows: int) -> RunConfig:
    """The trial of a method on ``rows`` instructions of the pool, as a run of its own.

    Raises:
        ConfigError: it cannot be configured so, or the held-out set has no references.
    """
    held = config.data.references
    if held is None or sources.read_heldout_of(held, config).rows.filter(split="test").height < _FEWEST_ITEMS:
        raise errors.ConfigError(
            f"data.heldout: methods are compared on {_FEWEST_ITEMS} or more held-out rows of the test split, each with "
            'a `reference`; name a file of such rows: data.heldout = { type = "file", path = "…" }'
        )
    few, name, judged = max(1, rows * 2 // 3), f"{config.run.name}-plan{rows}", config.data.judged
    # What is drawn from a pool is another set in each trial.
    settings = [
        *([f'data.heldout={{type="file",path={json.dumps(judged.references)}}}'] if judged else []),
        f"data.pool.{config.data.pool.size_field}={rows if method == MORE else few}",
        *(f"run.name={name}-{method}", "evaluation.each_round=[]", "evaluation.baseline=none"),
        *([] if config.budget.shared else [f"budget.shared={name}"]),
    ]
    return sources.settle_sizes(
        load.replace_values(method_config(config, method, few), settings, source=f"method {method}")
    )[0]


def read_tried(runs: Mapping[str, RunFolder]) -> list[Tried]:
    """What finished trials came to.

    A call takes the same time in all of them, whichever asked and whichever found it in the store.
    """
    stages = {method: recipe_stages(summarise(run), run.config) for method, run in runs.items()}
    seconds, calls = defaultdict[str, float](float), Counter[str]()
    for stage in chain.from_iterable(stages.values()):
        if stage.asks and stage.usage.calls >= max(1, stage.usage.stored):
            seconds[stage.name] += stage.seconds
            calls[stage.name] += stage.usage.calls

    def took(stage: StageSummary) -> float:
        answers, shared = stage.usage.calls + stage.usage.stored, calls[stage.name]
        return answers * seconds[stage.name] / shared if shared else stage.whole_seconds

    def trained(run: RunFolder) -> float:
        each_time = map(RunReader(run).training, (0, *run.config.round_numbers))
        return sum(float(each.get(name, 0.0)) for each in each_time for name in ("seconds", "reference_seconds"))

    return [
        Tried(
            method,
            sum(stage.usage.usd for stage in stages[method] if stage.asks in ROLES),
            (trained(run) + sum(took(each) for each in stages[method] if each.name != TRAIN.name)) / 3600,
            marks_on_test(RunReader(run), run.config.round_numbers[-1]),
        )
        for method, run in runs.items()
    ]


def gains_of(tried: Iterable[Tried], scope: str) -> list[Gain]:
    """Every method beside plain answers, which come first; ``scope`` names the draws."""
    by_name = {each.method: each for each in tried}
    plain = by_name.pop(PLAIN)
    return [Gain(plain), *(_gain(each, plain, scope) for each in by_name.values())]


def _gain(tried: Tried, plain: Tried, scope: str) -> Gain:
    both = {
        item: (mark - other) / 100
        for item, mark in tried.marks.items()
        if mark is not None and (other := plain.marks.get(item)) is not None
    }
    found = statistics.resample(
        {1: both}, rng=randomness.derive_rng(0, scope, "gain", tried.method), rerun=statistics.rerun_sd(2)
    )
    is_enough = len(both) >= max(_FEWEST_ITEMS, (1 - statistics.MAX_FAILED_SHARE) * len(plain.marks))
    points = (found.value, found.low90, found.high90) if found and is_enough else None
    more = ((tried.usd, plain.usd), (tried.hours, plain.hours))
    return Gain(tried, points, *(0.0 if own - of <= _NO_MORE * of else own - of for own, of in more))


def choose(gains: Sequence[Gain]) -> tuple[str, str]:
    """The method to take, empty where that is undecided, and why.

    One is better than another that gains less for no less money, or less by a USD (by an hour where none is paid for),
    beyond the intervals of both.
    """
    if lacking := [each.tried.method for each in gains[1:] if not each.points]:
        return "", f"undecided: too many held-out items lack a mark for a figure of {', '.join(lacking)}"
    asked = {each.tried.method: (each, each.points) for each in gains if each.points}
    by_usd = any(each.more_usd for each, _ in asked.values())
    cost = {name: each.more_usd if by_usd else each.more_hours for name, (each, _) in asked.items()}
    gaining, unit = [name for name, (_, points) in asked.items() if points[1] > 0], "USD" if by_usd else "hour"

    def is_better(one: str, other: str) -> bool:
        (gain, points), (others_gain, others) = asked[one], asked[other]
        if points[1] > others[2] and (cost[one] <= cost[other] or (others[1] <= 0 and not cost[other])):
            return True
        own_ratio, ratio = gain.by(cost[one]), others_gain.by(cost[other])
        return own_ratio is not None and ratio is not None and own_ratio[1] > ratio[2]

    if not gaining:
        return "", "undecided: no method is shown to gain anything over plain answers to two thirds of the prompts"
    for name in gaining:
        if all(is_better(name, other) for other in asked if other != name):
            return name, f"{name} gains most by {unit}, beyond the intervals of all others"
    return "", f"undecided by {unit}: the intervals overlap; shown to gain: {', '.join(gaining)}"
