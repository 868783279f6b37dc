"""What a stage is: declared once, with all that the run, its reports, its estimate and its flows know of it; its key.

The declarations stand in `pool`, `students` and `evaluation`, their order in `order`. Names and types of a table stand
here alone: whatever makes or reads one takes the `columns` of its stage.

A stage's key covers: run id, stage, stage version, the config fields that can change its output, its ingredients
(prompt files, input files, the backbone) and its inputs' digests. Concurrency, retries, base URLs, batch sizes of
engines and shard sizes are no part of any key.

The parts of the configuration are made of `Section.shaping()`; what a section names in its `free` can be changed at any
time and runs nothing again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import polars as pl

from tapir_core import paths, text
from tapir_core.config import Role, RunConfig

Asked = Literal["teacher", "judge", "student", ""]
"""Who is asked; the empty text for nobody."""

Compared = int | str
"""Who is compared on a benchmark: the student after a round (`BACKBONE`: untouched), or a model of a file, by name."""

Fields = Mapping[str, Any]
"""Of the configuration, by name, as JSON has them."""

TEXT, NUMBER, COUNT = pl.String(), pl.Float64(), pl.Int64()

CHECKPOINT = "checkpoint"
"""The folder of a student, which has files and no rows."""


@dataclass(frozen=True, slots=True)
class StageAt:
    """A stage in its place in a run: of which round, which wave, which benchmark. Plain values, so that it travels."""

    name: str
    round: int | None = None
    """None for the stages that run once."""
    wave: int | None = None
    """Wave of an expansion, from 1; None for the stages that are no step of a wave."""
    benchmark: str | None = None
    """Benchmark that is asked; None for the stages that are no part of one."""
    model: str | None = None
    """Model whose outputs come from a file, in place of a round's student."""

    def __str__(self) -> str:
        of_round = "" if self.round is None else paths.OF_NO_ROUND.get(self.round, f"round {self.round}")
        wave = f"wave {self.wave}" if self.wave else ""
        places = ", ".join(each for each in (of_round, self.model, wave, self.benchmark) if each and each != self.name)
        return f"{self.name} ({places})" if places else self.name

    @property
    def stage(self) -> "Stage":
        """What is declared of it."""
        return STAGES[self.name]

    @property
    def number(self) -> int:
        """The round, of a stage that has one."""
        assert self.round is not None, f"{self.name} runs once, not by round"
        return self.round

    @property
    def benchmark_name(self) -> str:
        """The benchmark, of a stage that belongs to one."""
        assert self.benchmark is not None, f"{self.name} is no stage of a benchmark"
        return self.benchmark

    @property
    def whole(self) -> "StageAt":
        """The planned stage that this one is a step of, such as the expansion of a wave's step; or itself."""
        step_of = self.stage.step_of or (self.stage.step_in_rounds if self.round is not None else "")
        return StageAt(step_of, self.round) if step_of else self

    @property
    def folder(self) -> str:
        """Where its rows lie in the run folder."""
        place = self.stage.folder
        if self.wave is not None:
            place = paths.wave_folder(self.wave, place)
        if self.benchmark is not None:
            place = paths.benchmark_folder(self.benchmark, place)
        if self.model is not None:
            return f"{paths.model_folder(self.model)}/{place}"
        return place if self.round is None else f"{paths.round_folder(self.round)}/{place}"


def always(*_: object) -> bool:
    """Of every configuration, in every place."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a run. What is not given it does not have."""

    name: str
    folder: str
    """Of its rows, in the run's folder, or in that of its round, wave, benchmark."""
    columns: pl.Schema = field(default_factory=pl.Schema)
    """Of its rows, in their order; a checkpoint has none."""
    some_have: pl.Schema = field(default_factory=pl.Schema)
    """More columns after these, each in a table only where one of its rows has something in it."""
    row: str = ""
    """What one row is, for docs/run-folder.md."""
    version: int = 1
    """Raised when a change of code changes its rows; that of `expand` with that of any step of it."""

    reads: Callable[[RunConfig, StageAt], Sequence[StageAt]] = lambda *_: ()
    """The stages whose rows go into it, in the order of its key."""
    settings: Callable[[RunConfig, StageAt], Fields] = lambda *_: {}
    """What of the configuration can change its rows. What is left out can be changed at any time."""
    files: Callable[[RunConfig, StageAt], Sequence[str]] = lambda *_: ()
    """Names of the files and folders that go into it: `prompt:judge`, `file:pool`, `backbone`."""
    when: Callable[[RunConfig, StageAt], bool] = always
    """Whether a run of this configuration has it there."""

    fewest: int | None = None
    """How many of the stages that it reads suffice, those that hold; all of them when left out."""

    asks: Asked = ""
    """Who is asked in it, if anybody."""
    roles: tuple[Role, ...] = ()
    """What its calls are for, as store and budget name it; the first is its own."""
    calls_per_row: int = 0
    """Paid calls for one row, at most, re-asks aside; what a redo may cost."""
    shards_of: str = ""
    """The stage whose shards its own follow, one by one; it starts before that one is complete."""
    rows_per_row: Callable[[RunConfig], int] = lambda _: 1
    """Rows that it makes of one row of that stage."""

    reads_beside: Callable[[RunConfig, StageAt], Sequence[StageAt]] = lambda *_: ()
    """More stages whose rows it reads, which follow from the others and from its settings: no part of its key."""
    inner: bool = False
    """Whether it stands in no plan, and is made only when a stage that reads it is to be made."""
    replaces: str = ""
    """The stage in whose place later ones read it, as with a stage that leaves out some of another's rows."""
    step_of: str = ""
    """The planned stage that it is a step of; a step stands in no plan, and reports count it as that one."""
    step_in_rounds: str = ""
    """The same of a stage that a run does once too: what it is a step of where it is done for a round."""
    wave_steps: tuple["Stage", ...] = ()
    """Its steps in each of its waves, in their order; none of a stage that has no waves."""
    last_steps: tuple["Stage", ...] = ()
    """Its steps after the last wave, in their order."""
    ends_run: bool = False
    """Whether a run that does it ends there, and goes on under another configuration."""
    trains: bool = False
    """Whether it makes a checkpoint by training."""
    shown: bool = True
    """Whether reports have a line for it; what it took counts in any case where its step's whole is shown."""
    shown_as: str = ""
    """The stage whose line in reports it has a part in, beside that one's own."""

    def at(
        self,
        round_number: int | None = None,
        wave: int | None = None,
        *,
        benchmark: str | None = None,
        model: str | None = None,
    ) -> StageAt:
        """It in its place."""
        return StageAt(self.name, round_number, wave, benchmark, model)

    def all_reads(self, config: RunConfig, at: StageAt) -> list[StageAt]:
        """The stages whose rows it reads, in its key or beside it."""
        return [*self.reads(config, at), *self.reads_beside(config, at)]

    @property
    def line(self) -> str:
        """The line of reports that it counts in; the empty text for none."""
        return self.step_of or self.shown_as or (self.name if self.shown else "")


STAGES: dict[str, Stage] = {}
"""Every stage by name."""


def declare(stage: Stage) -> Stage:
    """Make a stage known by its name.

    Raises:
        ValueError: something of it is left out, or another stage has its name.
    """
    lacking = {
        "a name of its own: there is another stage of this one": stage.name in STAGES,
        f'columns= (those of its rows) or folder="{CHECKPOINT}"': not stage.columns and stage.folder != CHECKPOINT,
        "row= (what one row is, for docs/run-folder.md)": bool(stage.columns) and not stage.row and not stage.step_of,
        f"roles= (what its calls are for: some of {', '.join(get_args(Role))})": bool(stage.asks) and not stage.roles,
        f"a known role: {', '.join(sorted({*stage.roles} - {*get_args(Role)}))} is none (tapir_core/config/roles.py)": (
            not {*stage.roles} <= {*get_args(Role)}
        ),
        f"a stage that there is in shards_of= ({stage.shards_of!r} is none)": stage.shards_of not in ("", *STAGES),
        f"a stage that there is in replaces= ({stage.replaces!r} is none)": stage.replaces not in ("", *STAGES),
    }
    if wrong := [what for what, lacks in lacking.items() if lacks]:
        raise ValueError(f"stage {stage.name!r} lacks {'; '.join(wrong)} (docs/extending.md)")
    STAGES[stage.name] = stage
    return stage


def planned(config: RunConfig, *stages: StageAt) -> list[StageAt]:
    """Those of these stages that a run of this configuration has."""
    return [at for at in stages if at.stage.when(config, at)]


def settings_of(at: StageAt, config: RunConfig, ingredients: Mapping[str, str]) -> list[Any]:
    """What a user puts into a stage: config fields, and name → digest of its ingredients."""
    return [at.stage.settings(config, at), {name: ingredients.get(name, "") for name in at.stage.files(config, at)}]


def own_digest(at: StageAt, config: RunConfig, ingredients: Mapping[str, str], version: int | None = None) -> str:
    """Digest of what goes into a stage beside its inputs' rows: what a user puts there, and the version of its code.

    That is ``version``, or today's.
    """
    return text.digest([at.name, version or at.stage.version, *settings_of(at, config, ingredients)])


def stage_key(
    at: StageAt,
    config: RunConfig,
    ingredients: Mapping[str, str],
    run_id: str,
    inputs: list[str],
    version: int | None = None,
) -> str:
    """The key that a stage's manifest must have to be served, if ``version`` of its code made it (today's if None).

    ``inputs`` are its inputs' digests in their order.
    """
    return text.digest([run_id, at.round, at.wave, own_digest(at, config, ingredients, version), inputs])
