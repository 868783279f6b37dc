"""Datasets: folders of rows that are complete or absent.

Parts are named by their content and never overwritten; `manifest.json` is written last, in one step, and its
existence with the right key means complete. What travels between tasks is a `DatasetRef`, never rows.

Files of benchmarks that are given by their address are fetched when a run is opened, and kept below the run root under
the digest of what they hold.
"""

import hashlib
import io
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import polars as pl

from tapir_core import errors, paths, text
from tapir_core.config import BenchmarkConfig, RunConfig
from tapir_core.storage import Storage

_READERS = 8
"""Parts that are read at once, since each waits for a disk or for S3."""

TRAIN_AGAIN = "put back a copy of it, or remove its folder, and `tapir run` trains again"
"""What to do about a damaged file of a checkpoint."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of rows."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """A complete dataset: where it is (relative to the run folder), what it holds, how many rows."""

    path: str
    digest: str
    rows: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` says. Other files than parts (a checkpoint's) may stand in `parts` with 0 rows."""

    stage: str
    version: int
    """Of the stage's code that made it."""
    key: str
    columns: tuple[str, ...]
    """Those that every table of the stage has."""
    rows: int
    parts: tuple[Part, ...]
    accepted_missing: dict[str, int] = field(default_factory=dict)
    """Reason → rows that the stage goes on without."""
    counts: dict[str, float] = field(default_factory=dict)
    """What the stage counted beside its rows: dropped rows by reason, shortfall, δ, …"""
    created: str = ""

    @property
    def digest(self) -> str:
        """Content of the dataset: its parts in order. Equal rows in equal shards have equal digests."""
        return text.digest([[part.sha256, part.rows] for part in self.parts])

    def ref(self, folder: str) -> DatasetRef:
        """The reference that travels between tasks."""
        return DatasetRef(folder, self.digest, self.rows)


def in_columns(rows: pl.DataFrame, columns: Iterable[str], some_have: Iterable[str] = ()) -> pl.DataFrame:
    """``rows`` with ``columns``, and of ``some_have`` those in which a row has something."""
    return rows.select(
        *columns,
        *(name for name in some_have if name in rows.columns and rows[name].null_count() < rows.height),
    )


def write_part(storage: Storage, folder: str, rows: pl.DataFrame) -> Part:
    """Write one part, named by its content; writing the same rows again changes nothing but a damaged file."""
    buffer = io.BytesIO()
    rows.write_parquet(buffer, compression="zstd", statistics=False)
    content = buffer.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    part = Part(paths.part_name(sha256), rows.height, sha256)
    path = f"{folder}/{part.name}"
    if not storage.exists(path) or storage.sha256(path) != sha256:
        storage.write_bytes(path, content)
    return part


def write_manifest(storage: Storage, folder: str, manifest: Manifest) -> DatasetRef:
    """Declare a dataset complete. The last write of a stage."""
    storage.write_bytes(paths.manifest_file(folder), json.dumps(asdict(manifest), indent=1).encode())
    return manifest.ref(folder)


def read_manifest(storage: Storage, folder: str) -> Manifest | None:
    """The folder's manifest, or None where the dataset is not complete.

    Raises:
        ConfigError: it is no manifest that this version of tapir knows.
    """
    try:
        fields = dict(json.loads(storage.read_bytes(paths.manifest_file(folder))))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    try:
        parts = tuple(Part(**part) for part in fields["parts"])
        return Manifest(**{**fields, "columns": tuple(fields["columns"]), "parts": parts})
    except (KeyError, TypeError) as error:
        raise errors.ConfigError(unknown_file(f"{storage.root}/{paths.manifest_file(folder)}", error)) from error


def unknown_file(path: str, error: Exception) -> str:
    """What to say of a file of a run that lacks fields or has others."""
    return f"{path} cannot be read ({error}): another version of tapir wrote it, most likely a later one; use that one"


def read_json(storage: Storage, path: str, remedy: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it is damaged; ``remedy`` says what to do then.
    """
    try:
        return dict(json.loads(storage.read_bytes(path)))
    except (ValueError, TypeError) as error:
        raise errors.ConfigError(f"{storage.url}/{path} is damaged ({error}); {remedy}") from error


def read_part(storage: Storage, folder: str, part: Part) -> pl.DataFrame:
    """Rows of one part.

    Raises:
        TapirError: its content is not what was written.
    """
    content = storage.read_bytes(f"{folder}/{part.name}")
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise damaged(f"{storage.url}/{folder}/{part.name}")
    return pl.read_parquet(io.BytesIO(content))


def damaged(path: str) -> errors.TapirError:
    """The error that names a file whose content is not what its manifest says."""
    return errors.TapirError(
        f"{path} is damaged: its sha256 is not the one in the manifest beside it. Remove it, then give the command "
        "that made it again (`tapir run`, or `tapir evaluate`): its stage is made anew, rows from the stored answers"
    )


def read_rows(storage: Storage, folder: str) -> pl.DataFrame:
    """All rows of a complete dataset, in the order of its parts.

    Raises:
        FileNotFoundError: the dataset is not complete.
    """
    manifest = read_manifest(storage, folder)
    if manifest is None:
        raise FileNotFoundError(f"{storage.root}/{paths.manifest_file(folder)}")
    with ThreadPoolExecutor(_READERS) as readers:
        frames = list(readers.map(partial(read_part, storage, folder), manifest.parts))
    if not frames:
        return pl.DataFrame(schema=dict.fromkeys(manifest.columns, pl.String))
    # A part whose rows have nothing in a column may lack it.
    return pl.concat(frames, how="diagonal_relaxed")


def is_address(path: str) -> bool:
    """Whether a file is named by its address, such as `https://…`."""
    return "://" in path


def file_ingredient(benchmark: str, field: str) -> str:
    """What a benchmark's file is called among a run's ingredients."""
    return f"file:{field}:{benchmark}"


def is_kept(root: Storage, address: str, sha256: str) -> bool:
    """Whether what an address once held lies below the run root, undamaged."""
    place = paths.fetched_file(sha256, address)
    return root.exists(place) and root.sha256(place) == sha256


def with_kept_files(config: RunConfig, ingredients: dict[str, str]) -> RunConfig:
    """A run's configuration with the kept file in place of each address of a benchmark; what the run's stages read.

    Kept is what the run was opened with. So its figures do not change with the address, and it goes on without network.
    """
    root, benchmarks = config.run.root.rstrip("/"), {}
    for name, benchmark in config.evaluation.benchmarks.items():
        update: dict[str, Any] = {}
        for setting, (place, _) in _kept(name, benchmark, ingredients).items():
            section, _, model = setting.partition(".")
            file = f"{root}/{place}"
            update[section] = {**update.get(section, getattr(benchmark, section)), model: file} if model else file
        benchmarks[name] = benchmark.model_copy(update=update)
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"benchmarks": benchmarks})})


def kept_files(config: RunConfig, ingredients: dict[str, str]) -> dict[str, str]:
    """The kept files of a run, below the run root → the digest of each."""
    return {
        place: sha256
        for name, benchmark in config.evaluation.benchmarks.items()
        for place, sha256 in _kept(name, benchmark, ingredients).values()
    }


def _kept(name: str, benchmark: BenchmarkConfig, ingredients: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Field of a benchmark that gives an address → the kept file, below the run root, and its digest."""
    return {
        field: (paths.fetched_file(sha256, address), sha256)
        for field, address in benchmark.all_files.items()
        if is_address(address) and (sha256 := ingredients.get(file_ingredient(name, field)))
    }
