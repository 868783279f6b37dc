"""One run on disk: its record, its configuration, and which of its stages hold.

A run folder belongs to one resolved configuration and its ingredients (prompt files, input files, the backbone).
The same again is a resume. What would change results is refused under the same name unless it is amended: another
configuration, another ingredient, and a version of tapir that makes a finished stage otherwise. What such a version
finds still holds, as the version that made it stands in its manifest: it can be read, exported and evaluated.
"""

import difflib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import polars as pl

from tapir_core import errors, paths, stages, statistics, text
from tapir_core.config import RunConfig
from tapir_core.config.load import VERSION, differing, load_resolved, resolved_json, resolved_table
from tapir_core.data import dataset
from tapir_core.storage import Storage, on_this_machine

_LISTED = 10
"""Runs of a root that an error names."""

_LONGEST_VALUE = 60
"""Characters of a setting that an error repeats."""

Seen = dict[stages.StageAt, dataset.DatasetRef | None]
"""What was found of stages during one look at a run, which it never outlives."""


@dataclass(frozen=True, slots=True)
class RunRef:
    """Where a run is; plain JSON, so that it can travel to any worker."""

    root: str
    name: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of one probe; a value of `settled` in `run.json`."""

    asked: str
    """Digest of what was probed: with another model, address or sampling it is probed again."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Field of the configuration → its value in this run."""
    said: tuple[str, ...] = ()
    """What the endpoint said to each field that it refused."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """`run.json`."""

    id: str
    name: str
    created: str
    ingredients: dict[str, str]
    """Name → digest of every file and folder that goes into a stage beside the configuration."""
    settled: dict[str, Settled] = field(default_factory=dict)
    """What was found of each endpoint that takes not everything, and of those that do (`probing`)."""


def by_words(found: Mapping[str, Settled]) -> Iterator[tuple[str, str, str]]:
    """Fields of the configuration with their value in the run, and what the endpoint said that made it so."""
    fields = statistics.grouped(
        ((said, value), name)
        for each in found.values()
        for (name, value), said in zip(each.changes.items(), each.said, strict=True)
    )
    for (said, value), names in fields.items():
        yield ", ".join(names), json.dumps(value), said


@dataclass(frozen=True, slots=True)
class Redo:
    """A finished stage that would be done again."""

    at: stages.StageAt
    rows: int
    calls: int
    version: int
    """Of the stage's code that made it."""

    @property
    def is_outdated(self) -> bool:
        """Whether this version of tapir makes it otherwise."""
        return self.version != self.at.stage.version

    def __str__(self) -> str:
        if not self.at.stage.columns:
            return f"{self.at}: a {'training' if self.at.stage.trains else 'checkpoint'}"
        return f"{self.at}: {self.rows} rows" + (f", up to {self.calls} calls" if self.calls else "")


class RunFolder:
    """Reads and writes the datasets of one run."""

    def __init__(self, ref: RunRef) -> None:
        self.ref = ref
        self.storage = Storage(f"{ref.root}/{ref.name}")
        self.workplace = on_this_machine(f"{ref.root}/{ref.name}")
        """The folder of this machine in which engines work and children log: the run's own if that is a local one."""

    @cached_property
    def record(self) -> RunRecord:
        """`run.json`.

        Raises:
            ConfigError: there is no such run, its file is damaged, or another version of tapir wrote it.
        """
        remedy = "put back a copy of it, or start the run under another --name: stored answers are re-used"
        try:
            record = dataset.read_json(self.storage, paths.RUN_RECORD, remedy)
            settled = {name: Settled(**each) for name, each in record.pop("settled", {}).items()}
            return RunRecord(**record, settled=settled)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise errors.ConfigError(_no_such_run(self.ref)) from error
        except (TypeError, AttributeError) as error:
            raise errors.ConfigError(dataset.unknown_file(f"{self.storage.root}/{paths.RUN_RECORD}", error)) from error

    @property
    def error(self) -> str:
        """What the last start ended with, such as a provider's words; empty where it did its work or is at it."""
        try:
            return self.storage.read_bytes(paths.RUN_ERROR).decode()
        except FileNotFoundError:
            return ""

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration that the run belongs to, with the place where its folder lies now.

        Raises:
            ConfigError: there is no such run, or its file is damaged.
        """
        try:
            content = self.storage.read_bytes(paths.RESOLVED_CONFIG)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise errors.ConfigError(_no_such_run(self.ref)) from error
        written = load_resolved(content, source=f"{self.storage.root}/{paths.RESOLVED_CONFIG}")
        return written.model_copy(
            update={"run": written.run.model_copy(update={"root": self.ref.root, "name": self.ref.name})}
        )

    @cached_property
    def version(self) -> int:
        """Of its resolved configuration; below `VERSION` the run is read, and not gone on with."""
        return int(json.loads(self.storage.read_bytes(paths.RESOLVED_CONFIG)).get("version", 1))

    @cached_property
    def kept_config(self) -> RunConfig:
        """`config`, with the kept file in place of each address of a benchmark: what stages read files by."""
        return dataset.with_kept_files(self.config, self.record.ingredients)

    def check_ingredient(self, name: str, digest: str, told: str) -> None:
        """Refuse what is not what the run was opened with: rows made of it would go under the old one's key.

        ``digest`` is what an ingredient has now, and ``told`` names it to a user.

        Raises:
            RunChanged: it was edited since, or is another one on this machine.
        """
        if digest != self.record.ingredients.get(name, ""):
            raise errors.RunChanged(
                f"{told} is not the file that run {self.ref.name!r} was opened with; put that one back and give the "
                "same command again, or run it with --amend"
            )

    @property
    def students(self) -> list[int]:
        """Students whose checkpoint holds, by round and in order: S_0 is 0, `AVERAGE` comes last."""
        return [each for each in self.config.students if each >= 0 and self.holds(stages.checkpoint_at(each))]

    @property
    def trained_rounds(self) -> list[int]:
        """Rounds whose student's checkpoint holds, in order; 0 is S_0."""
        return [number for number in self.students if number != paths.AVERAGE]

    @property
    def stage_versions(self) -> dict[str, int]:
        """Stage → version of the code that made its rows, the oldest of them; of all that the run plans and has."""
        made = [manifest for at in stages.plan(self.config) if (manifest := self.manifest(at)) is not None]
        # The oldest of a stage comes last, and stays.
        return {each.stage: each.version for each in sorted(made, key=lambda each: -each.version)}

    def key(
        self,
        at: stages.StageAt,
        seen: Seen | None = None,
        *,
        made_by: str | None = None,
        version: int | None = None,
    ) -> str | None:
        """The key that the stage's manifest has if it is made now; None while an input that it needs does not hold.

        ``made_by`` is the id of another run: the key that its manifest of the very same stage has. ``version`` of the
        stage's code counts in place of today's.
        """
        seen = {} if seen is None else seen
        inputs = [self.holds(each, seen) for each in at.stage.reads(self.config, at)]
        digests = [ref.digest for ref in inputs if ref is not None]
        if len(digests) < (at.stage.fewest or len(inputs)):
            return None
        return stages.stage_key(at, self.config, self.record.ingredients, made_by or self.record.id, digests, version)

    def holds(self, at: stages.StageAt, seen: Seen | None = None) -> dataset.DatasetRef | None:
        """The stage's dataset if it is complete, made of today's ingredients and all its parts are there.

        Whichever version of the stage's code made it. What an earlier configuration made and today's does not plan
        holds nothing.

        ``seen`` keeps what was found of other stages.
        """
        seen = {} if seen is None else seen
        if at not in seen:
            manifest = self.manifest(at)
            whole = (
                manifest is not None
                and at.stage.when(self.config, at)
                # Of what a development version made, the key was put together otherwise.
                and (self.version < VERSION or manifest.key == self.key(at, seen, version=manifest.version))
                # No stage is finished from steps that another version made.
                and (manifest.version == at.stage.version or at.whole == at or self.holds(at.whole, seen) is not None)
                and {part.name for part in manifest.parts} <= {*self.storage.names(at.folder)}
            )
            seen[at] = manifest.ref(at.folder) if manifest is not None and whole else None
        return seen[at]

    def manifest(self, at: stages.StageAt) -> dataset.Manifest | None:
        """The stage's manifest as it lies there, whether it holds or not."""
        return dataset.read_manifest(self.storage, at.folder)

    def sealed(self, at: stages.StageAt) -> dataset.Manifest:
        """The manifest of a stage that is done.

        Raises:
            MissingPrerequisite: it is not.
        """
        if (manifest := self.manifest(at)) is None:
            raise errors.MissingPrerequisite(_not_done(self.ref, at))
        return manifest

    def rows(self, at: stages.StageAt) -> pl.DataFrame:
        """All rows of a stage that holds.

        Raises:
            MissingPrerequisite: it is not done, or a file of it is gone.
            TapirError: a file of it is damaged.
        """
        try:
            return dataset.read_rows(self.storage, at.folder)
        except FileNotFoundError as exc:
            raise errors.MissingPrerequisite(f"{_not_done(self.ref, at)} ({exc} is not there)") from exc

    def write(
        self, at: stages.StageAt, rows: pl.DataFrame, counts: dict[str, float] | None = None
    ) -> dataset.DatasetRef:
        """Write a whole dataset in one part and declare it complete."""
        rows = dataset.in_columns(rows, at.stage.columns, at.stage.some_have)
        return self.seal(at, [dataset.write_part(self.storage, at.folder, rows)], counts=counts)

    def seal(
        self,
        at: stages.StageAt,
        parts: list[dataset.Part],
        *,
        accepted_missing: dict[str, int] | None = None,
        counts: dict[str, float] | None = None,
        seen: Seen | None = None,
    ) -> dataset.DatasetRef:
        """Declare a stage complete with the parts that its shards wrote; ``seen`` is as in `holds`."""
        key = self.key(at, seen)
        assert key is not None, f"{at} was sealed before its inputs"
        # Other programs read all Parquet files of a folder: what an earlier making left there must go.
        for name in {*self.storage.names(at.folder)} - {part.name for part in parts}:
            if paths.is_part(name):
                self.storage.remove(f"{at.folder}/{name}")
        return dataset.write_manifest(
            self.storage,
            at.folder,
            dataset.Manifest(
                stage=at.name,
                version=at.stage.version,
                key=key,
                columns=tuple(at.stage.columns),
                rows=sum(part.rows for part in parts),
                parts=tuple(parts),
                accepted_missing=accepted_missing or {},
                counts=counts or {},
                created=datetime.now(UTC).isoformat(timespec="seconds"),
            ),
        )


def runs_of(root: str) -> Iterator[RunFolder]:
    """Every run of a root, by name; none where the root is not there."""
    storage = Storage(root)
    for name in storage.names(""):
        if storage.exists(f"{name}/{paths.RUN_RECORD}"):
            yield RunFolder(RunRef(root, name))


def open_run(
    config: RunConfig,
    ingredients: dict[str, str],
    *,
    amend: bool = False,
    any_version: bool = False,
) -> RunFolder:
    """Create the run's folder, or open it if it belongs to this configuration.

    Args:
        config: what the run is to be.
        ingredients: name → digest of what goes into it beside.
        amend: redo what is not as it would be made now; keep the rest.
        any_version: leave finished stages as they are, whichever version of tapir made them.

    Raises:
        RunChanged: finished stages would be made otherwise now, and `amend` is not set.
        ConfigError: the folder cannot be written.
    """
    folder = RunFolder(RunRef(config.run.root, config.run.name))
    if not folder.storage.exists(paths.RUN_RECORD):
        return _write_record(
            folder,
            RunRecord(
                id=uuid.uuid4().hex,
                name=config.run.name,
                created=datetime.now(UTC).isoformat("T", "seconds"),
                ingredients=ingredients,
            ),
            config,
        )
    if (version := folder.version) < VERSION:
        raise errors.RunChanged(
            f"run {folder.ref.name!r} in {folder.ref.root!r} was made by a development version (configuration "
            f"{version}): it can be read and exported, but not continued; start it under a new --name, which re-uses "
            "the stored answers"
        )
    return _go_on(folder, config, replace(folder.record, ingredients=ingredients), amend, any_version)


def keep_settled(run: RunFolder, config: RunConfig, found: Mapping[str, Settled], *, amend: bool) -> RunFolder:
    """An opened run with what its endpoints take: what was ``found``, and the configuration that follows.

    Raises:
        RunChanged: finished stages would be made otherwise so, and `amend` is not set.
    """
    return _go_on(run, config, replace(run.record, settled=dict(found)), amend, any_version=False)


def _go_on(folder: RunFolder, config: RunConfig, record: RunRecord, amend: bool, any_version: bool) -> RunFolder:
    """The run with another configuration and record, as far as what is finished allows; as in `open_run`."""
    ingredients = record.ingredients
    redo = stages_to_redo(folder, config, ingredients, any_version=any_version)
    if redo and not amend:
        raise errors.RunChanged(
            _refusal(
                folder,
                config,
                redo,
                ingredients,
                same_settings=not stages_to_redo(folder, config, ingredients, any_version=True),
            )
        )
    for each in redo:
        # Its key holds by the version that made it, whatever is asked for now.
        if each.is_outdated:
            folder.storage.remove(paths.manifest_file(each.at.folder))
    return _write_record(folder, record, config)


def forget_damaged(folder: RunFolder) -> Iterator[str]:
    """Let the stages whose rows have a damaged file be made again; gives each such file, in words.

    Checkpoints are compared when they are read: it takes long, and a training costs more than stored answers.
    """
    storage = folder.storage
    for at in dict.fromkeys(each for each in stages.whole_plan(folder.config) if each.stage.columns):
        manifest = folder.manifest(at)
        for part in manifest.parts if manifest else ():
            path = f"{at.folder}/{part.name}"
            if storage.exists(path) and storage.sha256(path) != part.sha256:
                storage.remove(paths.manifest_file(at.folder))
                yield f"{storage.url}/{path} is damaged: {at} is made anew, from the stored answers"


def stages_to_redo(
    folder: RunFolder, config: RunConfig, ingredients: dict[str, str], *, any_version: bool = False
) -> list[Redo]:
    """Finished stages that are not as they would be made now, and all that read them.

    Another setting or ingredient goes into them, or, unless ``any_version``, another version of tapir made them.
    """
    old, old_ingredients = folder.config, folder.record.ingredients
    stale: set[stages.StageAt] = set()
    redo = []
    known = {*_with_inner(old), *stages.asked_apart(old)}
    for at in dict.fromkeys(each for each in (*_with_inner(config), *stages.asked_apart(config)) if each in known):
        manifest = folder.manifest(at)
        inputs, before = (at.stage.all_reads(each, at) for each in (config, old))
        changed = stages.own_digest(at, old, old_ingredients) != stages.own_digest(at, config, ingredients)
        outdated = manifest is not None and manifest.version != at.stage.version and not any_version
        if changed or outdated or inputs != before or stale.intersection(inputs):
            stale.add(at)
            if manifest is not None:
                redo.append(Redo(at, manifest.rows, manifest.rows * at.stage.calls_per_row, manifest.version))
    return redo


def _with_inner(config: RunConfig) -> Iterator[stages.StageAt]:
    """The plan, with the stages that are made only for those that read them before these."""
    for at in stages.plan(config):
        yield from (*stages.inner_stages(config, at), at)


def _write_record(folder: RunFolder, record: RunRecord, config: RunConfig) -> RunFolder:
    """The run as it reads from now on."""
    folder.storage.write_bytes(paths.RESOLVED_CONFIG, resolved_json(config).encode())
    folder.storage.write_bytes(paths.RUN_RECORD, json.dumps(asdict(record), indent=1).encode())
    return RunFolder(folder.ref)


def _no_such_run(ref: RunRef) -> str:
    """Which run is not there, which ones are, and which of them may be meant."""
    names = [run.ref.name for run in runs_of(ref.root)]
    near = difflib.get_close_matches(ref.name.lower(), {name.lower(): name for name in names}, n=3)
    meant = " or ".join(repr(name) for name in names if name.lower() in near)
    missing = f"there is no run {ref.name!r} in {ref.root!r}"
    return (
        f"{missing}.{f' Did you mean {meant}?' if meant else ''} It holds {text.first_few(names, _LISTED)}; see "
        f"`tapir status --root {ref.root}`"
        if names
        else f"{missing}, nor any other; name the right root with --root, or start a run (a new one appears here "
        "once its student is prepared)"
    )


def _not_done(ref: RunRef, at: stages.StageAt) -> str:
    """Which stage of which run is not done, which stage of the plan makes it, and which command."""
    run, is_evaluation = f"{ref.name} --root {ref.root}", at.name in {stage.name for stage in stages.EVALUATION}
    command = (
        f"`tapir evaluate {run}{'' if at.benchmark is None else f' --benchmark {at.benchmark}'}`"
        if is_evaluation or at.benchmark is not None
        else "`tapir run` with the configuration of this run"
    )
    return (
        f"{at} of run {ref.name!r} in {ref.root!r} is not done. Its stage {at.whole.name!r} makes it: give {command} "
        f"again, which goes on from there; `tapir status {run}` says how far the run is"
    )


def _refusal(
    folder: RunFolder, config: RunConfig, redo: list[Redo], ingredients: dict[str, str], *, same_settings: bool
) -> str:
    """Why a run is not opened, what going on would cost, and the ways out; ``same_settings``: versions differ alone."""
    run, outdated = folder.ref, {each.at.name: each for each in redo if each.is_outdated}.values()
    before = folder.record.ingredients
    other = sorted(name for name in before.keys() & ingredients.keys() if before[name] != ingredients[name])
    changed = [
        f"{name}: {' → '.join(text.shorten(text.canonical_json(value), _LONGEST_VALUE) for value in values)}"
        for name, *values in differing(resolved_table(folder.config), resolved_table(config))
    ]
    kept = ", ".join(
        f"{run.root}/{each}" for each in dataset.kept_files(folder.config, {name: before[name] for name in other})
    )
    calls, trainings = sum(each.calls for each in redo), sum(each.at.stage.trains for each in redo)
    age = "an older" if all(each.version < each.at.stage.version for each in outdated) else "another"
    versions = (f"{each.at.name} (version {each.version}, here {each.at.stage.version})" for each in outdated)
    lines = (
        f"run {run.name!r} in {run.root!r} was made by {age} version of tapir; this one makes these stages otherwise: "
        f"{', '.join(versions)}."
        if outdated
        else "",
        f"run {run.name!r} in {run.root!r} was made with another configuration, prompt file or input file."
        if not same_settings
        else "",
        f"  Other than before: {', '.join(changed + other)}" if changed + other and not same_settings else "",
        "  Going on would redo:",
        *(f"    {each}" for each in redo),
        f"  In all up to {calls} calls and {trainings} training{'' if trainings == 1 else 's'}.",
        "  Ways out:",
        "    go on with the version of tapir that made it" if outdated else "",
        f"    restore the old files and settings{f' (what an address held is kept: {kept})' if kept else ''}"
        if not same_settings
        else "",
        "    give the run a new name with --name (answers in the store are re-used)",
        "    add --amend to `tapir run`, which keeps what still holds and redoes the list above",
    )
    return "\n".join(filter(None, lines))
