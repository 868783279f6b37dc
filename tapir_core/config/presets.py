"""TOML files beside the configurations: a comparison of arms, and a list of backbones. Read and checked whole.

A comparison is one curriculum, the arms that depart from it, the run seeds; what an arm may be called, what the ready
ones change, and whether their settings fit is known in `tapir_core.comparison`. A list of backbones names one
curriculum, and the models that are taken through it. Limits: an entry says what belongs to a backbone and nothing else,
so that all of them are taught by the same pool, teacher and judge; entries are added at the end of the file as text,
which leaves comments and order alone.
"""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from tapir_core import errors, storage
from tapir_core.config import DIFFERENT, Section, StudentConfig, checks, load, matching, problems

ArmName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$")]
"""Small letters, digits and `_`, at most 30."""

Names = Annotated[tuple[ArmName, ...], Field(strict=False), DIFFERENT]
Overrides = Annotated[tuple[str, ...], Field(strict=False)]


class ArmEntry(Section):
    """What one arm has of its own."""

    like: ArmName | None = None
    """The ready arm that it begins with; unset: the one of its own name, else the configuration as it is."""

    label: str | None = None
    """What it is called in tables; the ready arm's when left out."""

    overrides: Overrides = ()
    """Settings, as `--set` writes them; what makes a ready arm that arm is set after them."""


class TokenPrices(Section):
    """What tokens are counted at."""

    usd_per_million_prompt_tokens: NonNegativeFloat
    """Of 1,000,000 prompt tokens."""

    usd_per_million_completion_tokens: NonNegativeFloat
    """Of 1,000,000 completion tokens."""


class RolePrices(Section):
    """Prices in place of those that calls were paid at: for the stand-in, and where nothing is paid by the token."""

    teacher: TokenPrices
    """Of labels, plain answers, expansion and refinement."""

    judge: TokenPrices
    """Of verdicts."""


class ComparisonConfig(Section):
    """One comparison, whole."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,29}$")]
    """Letters, digits, `.`, `_` and `-`, at most 30. The run of an arm and a run seed is NAME-ARM-sSEED."""

    config: str
    """The configuration of a run that all arms begin with; its own name and seed are replaced."""

    overrides: Overrides = ()
    """Settings for all arms, as `--set` writes them."""

    run_seeds: Annotated[tuple[NonNegativeInt, ...], Field(strict=False), DIFFERENT, Field(min_length=1)]
    """`run.seed` of each repetition: one, or several so that the intervals cover them."""

    reference: ArmName = "multi_round"
    """The arm that goes first and that the others are matched to."""

    primary: Names
    """Arms with all run seeds; the reference and `random` are among them."""

    exploratory: Names = ()
    """Arms with the first run seed only, without a verdict."""

    equal_usd_at_most: Annotated[float, Field(gt=1)] | None = None
    """How many times random's examples `equal_usd` trains on at most; unset: as many as equal USD buys."""

    verdict: bool = True
    """Say in words what the intervals show; `false` where runs are too small to carry a conclusion."""

    prices: RolePrices | None = None
    """`[prices.teacher]` and `[prices.judge]`: what tokens are counted at, in place of what was paid."""

    arms: dict[ArmName, ArmEntry] = Field({})
    """`[arms.NAME]`: what an arm has of its own. A ready arm needs none."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every arm, the reference first."""
        return self.reference, *(name for name in (*self.primary, *self.exploratory) if name != self.reference)

    def run_name(self, arm: str, run_seed: int) -> str:
        """Name of an arm's run with a run seed: its folder below the root, and its result file."""
        return f"{self.name}-{arm}-s{run_seed}"

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The run seeds of an arm."""
        return self.run_seeds[:1] if arm in self.exploratory else self.run_seeds


def load_comparison(path: str | Path) -> ComparisonConfig:
    """Read what is compared.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong; carries every problem found.
    """
    found = load.validated(ComparisonConfig, load.read_toml(Path(path)), str(path))
    both = ", ".join(sorted({*found.primary} & {*found.exploratory}))
    unused = next(iter(sorted({*found.arms} - {*found.names})), "")
    wrong = problems(
        {
            "run_seeds: a verdict takes two or more; name more, or set verdict = false": found.verdict
            and len(found.run_seeds) < 2
        }
        | {
            f"primary: {name!r} is missing; arms are matched to the reference and set against random": (
                name not in found.primary
            )
            for name in (found.reference, "random")
        }
        | {
            f"exploratory: {both} stand in primary too; choose one of the two": both,
            f"arms.{unused}: is in neither primary nor exploratory; name it there, or remove it": unused,
        }
    )
    if wrong:
        raise errors.ConfigError(wrong, source=str(path))
    return found


OwnSetting = Annotated[
    str,
    matching(
        r"((training|student\.engine|student\.sampling)\.[\w.]+|(basic_tuning|rounds\.\w+)\.(epochs|learning_rate))=(?s:.*)",
        "is no setting of a backbone; write training.FIELD=VALUE, student.engine.…, student.sampling.…, or epochs and "
        "learning_rate of basic_tuning and rounds.default",
    ),
]
"""A setting that belongs to a backbone, as `--set` writes it."""


class BackboneEntry(Section):
    """One backbone."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
    """What it is called: letters, digits, `.`, `_` and `-`, at most 40. Its run is named CURRICULUM-NAME."""

    backbone: Annotated[str, Field(min_length=1)]
    """Local folder, hub id, or `embedded:smollm2-135m-instruct`, as `student.backbone`."""

    revision: str | None = None
    """Revision of a hub id."""

    chat_template: str | None = None
    """Jinja file that replaces its own chat template; the curriculum's, which is another model's, is not taken."""

    precision: Literal["auto", "bf16", "fp32"] | None = None
    """Precision of its training; the curriculum's when left out."""

    overrides: Annotated[tuple[OwnSetting, ...], Field(strict=False)] = ()
    """More of its training, as `--set` writes it: any field of `training`, `student.engine` and `student.sampling`,
    `epochs` and `learning_rate` of `basic_tuning` and `rounds`."""


class BackboneList(Section):
    """A list of backbones, and the curriculum that they are taken through."""

    config: str
    """The curriculum: the configuration of a run. Its own backbone, and what an entry sets, are replaced."""

    backbones: Annotated[tuple[BackboneEntry, ...], Field(strict=False), DIFFERENT, Field(min_length=1)]
    """One `[[backbones]]` or more, with name and backbone each; they run in this order."""


def load_backbones(path: str | Path) -> BackboneList:
    """Read a list.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; carries every problem found.
    """
    return load.validated(BackboneList, load.read_toml(Path(path)), str(path))


def add_backbone(path: str | Path, entry: dict[str, str]) -> BackboneEntry:
    """Write a new entry at the end of a list; ``entry`` are its fields.

    Raises:
        ConfigError: the list or the entry is wrong, or the name is taken; nothing is written then.
    """
    load.read_toml(Path(path))
    before = Path(path).read_text(encoding="utf-8-sig")
    lines = [f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in entry.items()]
    text = "\n".join([before.rstrip("\n"), "", "[[backbones]]", *lines, ""])
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise errors.ConfigError(
            f"{str(path)!r} takes no entry at its end ({exc}); write its entries as [[backbones]]"
        ) from exc
    added = load.validated(BackboneList, table, str(path)).backbones[-1]
    student = StudentConfig(backbone=added.backbone, chat_template=added.chat_template)
    if problems := list(checks.check_student(student)):
        raise errors.ConfigError(problems, source=f"backbone {added.name}")
    storage.Storage(Path(path).parent).write_bytes(Path(path).name, text.encode())
    return added


def settings_of(entry: BackboneEntry) -> list[str]:
    """What the entry changes in the curriculum's configuration, as `--set` writes it."""
    student = {name: getattr(entry, name) or "" for name in ("backbone", "revision", "chat_template")}
    precision = [] if entry.precision is None else [f"training.precision={entry.precision}"]
    return [
        *(f"student.{field}={json.dumps(text, ensure_ascii=False)}" for field, text in student.items()),
        *precision,
        *entry.overrides,
    ]
