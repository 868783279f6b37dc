"""Files of a run in a second place: another root, another run, the machine of an engine, a model folder of its own.

Each arrives as its sha256 says, or not at all. In another root manifests come after what they list and `run.json` last,
so that a copy that broke off is no run; copying again goes on where it stopped. Prefect's results and the working
folders of unfinished trainings stay behind: a run needs neither.

With a local root an engine works in the run's own folder. With a remote one it works in the run's `workplace`: what it
makes is uploaded before the stage is sealed, and what it reads is downloaded once. Limit: an unfinished training is on
the machine that began it; another one begins anew.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tapir_core import errors, paths, stages
from tapir_core.calls import timing
from tapir_core.config.student import PRESETS, StudentConfig
from tapir_core.data.dataset import TRAIN_AGAIN, Manifest, damaged, read_json, read_manifest
from tapir_core.run_folder import RunFolder, Seen
from tapir_core.storage import Storage, file_sha256

logger = logging.getLogger(__name__)


def copy_file(source: Storage, target: Storage, path: str, sha256: str, *, link: bool = False) -> None:
    """Copy one file, which has the same path in both, and read it back.

    With ``link`` it is a hard link where both are on one disk that has them: for files that nobody writes into.

    Raises:
        TapirError: it did not arrive as its sha256 says it should be; nothing of it stays.
    """
    if not (link and source.is_local and target.is_local and link_file(source.local(path), target.local(path))):
        source.send(path, target)
    if target.sha256(path) != sha256:
        target.remove(path)
        raise errors.TapirError(
            f"{path} did not arrive at {target.url} as its sha256 says it should be: it is damaged in {source.url}, or "
            "was on the way. Try again; if it stays so, remove its stage's folder there, and the run makes it anew"
        )


def link_file(file: Path, place: Path) -> bool:
    """Whether the file is in its second place now: the disk may have no hard links, or be another one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, place)
    except OSError:
        return False
    return True


def _listed(manifest: Manifest) -> dict[str, str]:
    """Name → sha256 of every file that a manifest lists."""
    return {part.name: part.sha256 for part in manifest.parts}


@dataclass(frozen=True, slots=True)
class Copied:
    """What was done."""

    files: int
    bytes: int
    already_there: int
    """Files of the run that an earlier copy brought; they are not in ``files``."""


def copy_run(source: Storage, target: Storage, *, on_file: Callable[[str, int, int], None]) -> Copied:
    """Copy the run folder ``source`` to ``target`` and verify it.

    Args:
        source: The run's folder. Nobody may write to it meanwhile.
        target: Its new folder: empty, an unfinished copy of this run, or a whole one.
        on_file: Told each file when it is there, with its bytes and the bytes of all files.

    Raises:
        ConfigError: there is no run, or the target holds something else.
        TapirError: a file did not arrive as it should be.
    """
    sizes = _in_order(source)
    there = {path: size for path, size in target.files().items() if paths.goes_with_run(path)}
    finished = _check_target(source, target, sizes, there)
    digests, total = _digests(source, sizes), sum(sizes.values())
    copied = []
    for path, size in sizes.items():
        sha256 = digests.get(path) or source.sha256(path)
        if there.get(path) != size or target.sha256(path) != sha256:
            if finished:
                raise errors.ConfigError(
                    f"{target.url} holds this run already and {path} differs there: one of the two went on, or is "
                    "damaged; remove the one that is not wanted"
                )
            copy_file(source, target, path, sha256)
            copied.append(path)
        on_file(path, size, total)
    return Copied(len(copied), sum(sizes[path] for path in copied), len(sizes) - len(copied))


def remove_run(storage: Storage) -> None:
    """Remove a run folder; `run.json` goes first, so that what a broken removal leaves is no run."""
    storage.remove(paths.RUN_RECORD)
    storage.remove("")


def _in_order(source: Storage) -> dict[str, int]:
    """Path → bytes of what goes with the run: files, then the manifests that list them, `run.json` last."""
    found = {path: size for path, size in source.files().items() if paths.goes_with_run(path)}
    if paths.RUN_RECORD not in found:
        raise errors.ConfigError(f"there is no run in {source.url}; see `tapir status`")
    last = sorted(found, key=lambda path: (path == paths.RUN_RECORD, PurePosixPath(path).name == paths.MANIFEST, path))
    return {path: found[path] for path in last}


def _check_target(source: Storage, target: Storage, sizes: dict[str, int], there: dict[str, int]) -> bool:
    """Whether the target is this very run, whole; an error where it can be neither that nor a part of it."""
    if paths.RUN_RECORD in there:
        ours, theirs = (
            read_json(each, paths.RUN_RECORD, "put back a copy of it").get("id") for each in (source, target)
        )
        if ours != theirs:
            raise errors.ConfigError(f"{target.url} holds another run of this name; name another root")
        return True
    strange = sorted(there.keys() - sizes.keys())
    if strange:
        raise errors.ConfigError(
            f"{target.url} holds what the run does not have ({strange[0]}, {len(strange)} in all): a copy that was "
            "begun before the run went on, or something else; remove that folder, or name another root"
        )
    return False


def _digests(source: Storage, sizes: dict[str, int]) -> dict[str, str]:
    """Path → sha256 of every file that a manifest lists."""
    folders = [str(PurePosixPath(path).parent) for path in sizes if PurePosixPath(path).name == paths.MANIFEST]
    manifests = [(folder, manifest) for folder in folders if (manifest := read_manifest(source, folder)) is not None]
    return {f"{folder}/{name}": sha256 for folder, each in manifests for name, sha256 in _listed(each).items()}


def take_over(source: RunFolder, target: RunFolder) -> list[stages.StageAt]:
    """Give ``target`` every stage that ``source`` has made just as ``target`` would make it; returns them in order.

    A stage is taken when its key differs by the run's id alone: same settings, ingredients, stage version and inputs,
    down to their content. It is sealed anew under the key of the run that takes it, so neither run needs the other
    afterwards; what holds in ``target`` already stays as it is. Each manifest is written last and counts for its run:
    nothing was asked and no time was spent. The caller holds the lease of ``target``, and nobody changes ``source``
    meanwhile. Answers need none of this, for the store shares them: this is for checkpoints and whole stages.

    Raises:
        TapirError: a file of ``source`` is not what its manifest says.
    """
    seen: Seen = {}
    return [at for at in stages.whole_plan(target.config) if _take(source, target, at, seen)]


def _take(source: RunFolder, target: RunFolder, at: stages.StageAt, seen: Seen) -> bool:
    """Take one stage, if it may be taken; ``seen`` is what holds of the stages before it, and of this one then."""
    if target.holds(at, seen):
        return False
    manifest = source.manifest(at)
    if manifest is None or manifest.key != target.key(at, seen, made_by=source.record.id):
        return False
    target.storage.remove(at.folder)
    listed = _listed(manifest)
    # Files that no manifest lists, such as a checkpoint's `training.json`.
    beside = {
        name
        for name in source.storage.names(at.folder)
        if name != paths.MANIFEST and not paths.is_part(name) and name[0] != "."
    }
    for name in listed.keys() | beside:
        path = f"{at.folder}/{name}"
        copy_file(source.storage, target.storage, path, listed.get(name) or source.storage.sha256(path), link=True)
    seen[at] = target.seal(
        at,
        list(manifest.parts),
        accepted_missing=manifest.accepted_missing,
        counts=_counts(manifest),
        seen=seen,
    )
    return True


def _counts(manifest: Manifest) -> dict[str, float]:
    """What the stage counted, with its calls as answers that were there already; the run that takes it timed none."""
    counts = {name: count for name, count in manifest.counts.items() if not name.startswith(timing.PREFIX)}
    counts |= {"seconds": 0.0} if "seconds" in counts else {}
    if "calls" in counts:
        counts |= {"calls": 0.0, "stored": counts.get("stored", 0.0) + counts["calls"]}
    return counts


def fetch_stage(run: RunFolder, at: stages.StageAt) -> Path:
    """Folder of this machine with the files that the stage's manifest lists, and no others where it is a copy.

    Raises:
        TapirError: a file is not what the manifest says.
    """
    folder, is_copy = run.workplace.local(at.folder), not run.storage.is_local
    listed, there = _listed(run.sealed(at)), run.workplace.names(at.folder)
    for name in set(there) - listed.keys() if is_copy else ():
        run.workplace.remove(f"{at.folder}/{name}")
    for name, sha256 in listed.items():
        if name not in there or file_sha256(folder / name) != sha256:
            if not is_copy:
                raise damaged(str(folder / name))
            copy_file(run.storage, run.workplace, f"{at.folder}/{name}", sha256)
    return folder


def publish_stage(run: RunFolder, at: stages.StageAt) -> None:
    """Upload what an engine made of a stage, so that it can be sealed; what an earlier making left goes first."""
    if not run.storage.is_local:
        run.storage.remove(paths.manifest_file(at.folder))
        run.storage.remove(at.folder)
        _upload(run, at.folder)


def publish_logs(run: RunFolder) -> None:
    """Upload the logs that children wrote on this machine. A run does not fail for them."""
    try:
        _upload(run, paths.LOGS)
    except errors.TapirError as error:
        logger.warning("logs of run %s stay in %s: %s", run.ref.name, run.workplace.url, error)


def _upload(run: RunFolder, folder: str) -> None:
    """Send a folder of the workplace to the run, where that is elsewhere."""
    if not run.storage.is_local:
        for path in run.workplace.files(folder):
            run.workplace.send(path, run.storage)


def export_student(
    run: RunFolder, number: int, to: Storage, texts: Mapping[str, str], *, on_file: Callable[[str], None]
) -> dict[str, str]:
    """Write a student with its model card to ``to``; gives name → sha256 of the checkpoint.

    What an earlier export left there is replaced; a file that is the same is not copied again. The folder says what it
    is in a record, which is written first and made complete last: what a broken export left is known for that and goes
    on, and a folder without a record is never written to.

    Args:
        run: The run; it may be on S3.
        number: Which student, by round; its checkpoint must hold.
        to: The folder: empty, absent or an export.
        texts: Name → text of what stands beside the checkpoint: the model card, maybe a Modelfile.
        on_file: Told each file's name when it is there.

    Raises:
        ConfigError: the folder holds something else, or cannot be written.
        TapirError: a file did not arrive as the manifest says.
    """
    at = stages.checkpoint_at(number)
    manifest, before = run.sealed(at), _exported_before(to)
    files, own = _listed(manifest), {name: text.encode() for name, text in texts.items()}
    listed = files | {name: hashlib.sha256(content).hexdigest() for name, content in own.items()}
    record = {
        "run": run.ref.name,
        "run_id": run.record.id,
        "round": paths.OF_NO_ROUND.get(number, number),
        "checkpoint": manifest.digest,
    }
    if strange := sorted({*to.files()} & listed.keys() - before.keys()):
        raise errors.ConfigError(
            f"{to.url}/{strange[0]} is not of an export, and this one has a file of its name; move it to another place"
        )
    # Until they are removed, the files of the export before are named as this one's: a removal may break off too.
    _write_record(to, {**record, "files": before | listed, "complete": False})
    for name in before.keys() - listed.keys():
        to.remove(name)
    checkpoint, there = Storage(f"{run.storage.url}/{at.folder}"), to.files()
    for name, sha256 in files.items():
        if name not in there or to.sha256(name) != sha256:
            copy_file(checkpoint, to, name, sha256)
        on_file(name)
    for name, content in own.items():
        to.write_bytes(name, content)
    _write_record(to, {**record, "files": listed, "complete": True})
    return files


def _exported_before(to: Storage) -> dict[str, str]:
    """The checkpoint's files that an earlier export wrote; none where there was none."""
    if to.is_local and Path(to.root).is_file():
        raise errors.ConfigError(f"{to.url} is a file; name a folder")
    there = to.files()
    if paths.EXPORT_RECORD in there:
        return dict(
            read_json(to, paths.EXPORT_RECORD, f"remove the folder {to.url}, and export again").get("files", {})
        )
    if there:
        raise errors.ConfigError(
            f"{to.url} holds something else than an export ({next(iter(there))}, {len(there)} files in all), which is "
            "left as it is; name another folder with --to"
        )
    return {}


def _write_record(to: Storage, record: dict[str, object]) -> None:
    to.write_bytes(paths.EXPORT_RECORD, json.dumps(record, indent=1).encode())


_FAMILIES = {
    "Qwen2ForCausalLM": "chatml",
    "LlamaForCausalLM": "llama3.2",
    "Gemma3ForCausalLM": "gemma3",
}
"""Architecture → the chat template that its preset names."""


def write_modelfile(checkpoint: Storage, student: StudentConfig) -> tuple[str, str]:
    """The Modelfile of the student in ``checkpoint``, for Ollama, or an empty text and why there is none.

    It holds the chat template in Go's form, the tokens that end an answer, and the sampling. Only for families whose
    safetensors Ollama converts, and only with the chat template that is shipped for the family: with another one the
    student would be asked otherwise than it was trained. Limits: written from Ollama's documentation and never run with
    it; the token that begins a text is left to Ollama, which puts it first.
    """
    there = checkpoint.files()

    def read(name: str) -> dict[str, Any]:
        return read_json(checkpoint, name, TRAIN_AGAIN) if name in there else {}

    [architecture, *_] = read("config.json").get("architectures") or [""]
    if architecture not in _FAMILIES:
        return "", f"the architecture {architecture or 'of its config.json'} is none of {', '.join(_FAMILIES)}"
    family = _FAMILIES[architecture]
    own = checkpoint.read_bytes("chat_template.jinja").decode() if "chat_template.jinja" in there else ""
    if own.strip() != (PRESETS / f"{family}.jinja").read_text(encoding="utf-8").strip():
        return "", f"its chat template is not `{family}`, for which alone one is written of {architecture}"
    ids = read("generation_config.json").get("eos_token_id", [])
    texts = {each["id"]: each["content"] for each in read("tokenizer.json").get("added_tokens", [])}
    stops = [texts[each] for each in (ids if isinstance(ids, list) else [ids]) if each in texts]
    if not stops:
        return "", "no token that ends an answer stands in its generation_config.json and tokenizer.json"
    parameters = {
        "temperature": student.sampling.temperature,
        "top_p": student.sampling.top_p,
        "num_predict": student.sampling.max_tokens,
        "num_ctx": student.room,
    }
    lines = [
        "# Never run with Ollama: written from its documentation. In this folder: ollama create NAME -f Modelfile",
        "FROM .",
        f'TEMPLATE """{(PRESETS / f"{family}.gotmpl").read_text(encoding="utf-8")}"""',
        *(f'PARAMETER stop "{each}"' for each in stops),
        *(f"PARAMETER {name} {value}" for name, value in parameters.items() if isinstance(value, int | float)),
    ]
    return "\n".join([*lines, ""]), ""
