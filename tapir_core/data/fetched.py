"""Files of benchmarks that are given by their address: fetched when a run is opened, kept below the run root.

They are kept by what they hold, and a run reads what it was opened with and nothing else. So its figures do not change
with the address behind its back, and it goes on where no network is.
"""

import hashlib
from typing import Any

from tapir_core.config import BenchmarkConfig, RunConfig
from tapir_core.paths import fetched_file
from tapir_core.storage import Storage


def is_address(path: str) -> bool:
    """Whether a file is named by its address, such as `https://…`."""
    return "://" in path


def file_ingredient(benchmark: str, field: str) -> str:
    """What a benchmark's file is called among a run's ingredients."""
    return f"file:{field}:{benchmark}"


def keep_file(root: Storage, address: str, content: bytes) -> str:
    """Keep what an address held below the run root; its digest."""
    sha256 = hashlib.sha256(content).hexdigest()
    if not is_kept(root, address, sha256):
        root.write_bytes(fetched_file(sha256, address), content)
    return sha256


def is_kept(root: Storage, address: str, sha256: str) -> bool:
    """Whether what an address once held lies below the run root, undamaged."""
    place = fetched_file(sha256, address)
    return root.exists(place) and root.sha256(place) == sha256


def with_kept_files(config: RunConfig, ingredients: dict[str, str]) -> RunConfig:
    """A run's configuration with the kept file in place of each address of a benchmark; what the run's stages read."""
    root, benchmarks = config.run.root.rstrip("/"), {}
    for name, benchmark in config.evaluation.benchmarks.items():
        update: dict[str, Any] = {}
        for field, (place, _) in _kept(name, benchmark, ingredients).items():
            section, _, model = field.partition(".")
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
        field: (fetched_file(sha256, address), sha256)
        for field, address in benchmark.all_files.items()
        if is_address(address) and (sha256 := ingredients.get(file_ingredient(name, field)))
    }
