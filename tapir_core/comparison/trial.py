"""What a run's money and hours are best spent on, tried on a few hundred rows of its own pool (`tapir plan --trial`).

Each method is a run of its own: one round on two thirds of the rows (`MORE`: on all of them), or the same with more
answers, new instructions, or another objective. What a method gains is the paired difference of its last student to
plain answers on two thirds of the rows, over the same held-out items; by USD and by hours it is divided by what it took
beyond those. One run seed: the interval covers items and what a rerun changes, and no other rows.

A method is chosen where its 90 % interval lies above those of all others, and above 0; else it is undecided. Limits:
what pays at a few hundred rows need not pay at many; the price of the machine is not known, so that hours stand beside
USD.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tapir_core import errors, randomness, sources, statistics
from tapir_core.comparison.outcome import recipe_stages
from tapir_core.comparison.plan import READY
from tapir_core.config import RunConfig, load
from tapir_core.config.checks import check_config
from tapir_core.run_folder import RunFolder
from tapir_core.summary import RunReader, marks_on_test, summarise

PLAIN, MORE = "plain", "prompts"

_UNSET = ("rounds.1.alpha=", "rounds.1.learning_rate=")
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
        ("rounds.1.objective=prefer", 'rounds.1.selection={type="hard_share"}', *_UNSET),
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
    marks: Mapping[str, float | None]
    """Item of the test split → 100 where it is right, 0 where not."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A method beside plain answers; every figure with its 90 % interval."""

    tried: Tried
    points: statistics.Resampled | None = None
    by_usd: tuple[float, float, float] | None = None
    """Points a USD more, with both ends; None where it took no more."""
    by_hour: tuple[float, float, float] | None = None


def settings_of(config: RunConfig, method: str) -> list[str]:
    """What makes one round of this method of a configuration, as `--set` writes it."""
    plain = ("curriculum.expansion.max_waves=0", "curriculum.refine=false", "teacher.answers_per_prompt=1")
    sizes = ('basic_tuning.examples="auto"', 'rounds.1.examples="auto"')
    drawn = method == "answers" and config.teacher.answering.temperature == 0
    settings = [*READY["random_once"].settings(config), *plain, *sizes, *METHODS[method][1]]
    return [*settings, *(["teacher.answering.temperature=0.7"] if drawn else [])]


def method_config(config: RunConfig, method: str) -> RunConfig:
    """The configuration with one round of this method in place of its own.

    Raises:
        ConfigError: it cannot be configured so.
    """
    config = load.spell_out_rounds(config)
    made = load.replace_values(config, settings_of(config, method), source=f"method {method}")
    if problems := check_config(made):
        raise errors.ConfigError(problems, source=f"method {method}")
    return made


def trial_config(config: RunConfig, method: str, rows: int) -> RunConfig:
    """The trial of a method on ``rows`` instructions of the pool, as a run of its own.

    Raises:
        ConfigError: it cannot be configured so, or the held-out set has no references.
    """
    if config.data.references is None:
        raise errors.ConfigError(
            "data.heldout: methods are compared on a held-out set whose rows have a `reference`; name a file of such "
            'rows: data.heldout = { type = "file", path = "…" }'
        )
    few, name = max(1, rows * 2 // 3), f"{config.run.name}-plan"
    settings = [
        f"data.pool.{config.data.pool.size_field}={rows if method == MORE else few}",
        *(f"run.name={name}-{method}", f"budget.shared={name}", "evaluation.each_round=[]", "evaluation.baseline=none"),
        *([f"rounds.1.examples={rows}"] if method == "expansion" else []),
    ]
    made = load.replace_values(method_config(config, method), settings, source=f"method {method}")
    return sources.settle_sizes(made)[0]


def read_tried(run: RunFolder, method: str) -> Tried:
    """What a finished trial came to."""
    summary, last = summarise(run), run.config.round_numbers[-1]
    stages = recipe_stages(summary, run.config)
    usd = sum(stage.usage.usd for stage in stages if stage.asks in ("teacher", "judge"))
    return Tried(method, usd, sum(stage.seconds for stage in stages) / 3600, marks_on_test(RunReader(run), last))


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
    rng = randomness.derive_rng(0, scope, "gain", tried.method)
    points = statistics.resample({1: both}, rng=rng, rerun=statistics.rerun_sd(2))
    more = tried.usd - plain.usd, tried.hours - plain.hours
    by_usd, by_hour = (_by(points, each) for each in more)
    return Gain(tried, points, by_usd, by_hour)


def _by(points: statistics.Resampled | None, amount: float) -> tuple[float, float, float] | None:
    if points is None or amount <= 0:
        return None
    return points.value / amount, points.low90 / amount, points.high90 / amount


def choose(gains: Sequence[Gain]) -> tuple[str, str]:
    """The method to take, empty where that is undecided, and why."""
    asked = [each for each in gains if each.tried.method != PLAIN and each.points]
    unit, by = ("USD", "by_usd") if any(each.by_usd for each in asked) else ("hour", "by_hour")
    found = {each.tried.method: span for each in asked if (span := getattr(each, by)) is not None}
    if not found:
        return "", "undecided: no method was measured"
    best, *others = sorted(found, key=lambda name: -found[name][0])
    rivals = [name for name in others if found[name][2] >= found[best][1]]
    if rivals:
        return "", f"undecided by {unit}: the intervals of {', '.join((best, *rivals))} overlap"
    if found[best][1] <= 0:
        return "", f"undecided by {unit}: {best} is not shown to gain anything"
    return best, f"{best} gains most by {unit}, and its interval lies above all others"
