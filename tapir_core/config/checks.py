"""What a valid configuration may still get wrong on this machine: files, folders, keys, fields that contradict.

No network is touched and no engine is loaded. `check_config` finds mistakes in the configuration (exit code 2),
`missing_prerequisites` finds what this machine lacks for it (exit code 1).
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tapir_core.config.benchmarks import AskedBenchmark
from tapir_core.config.roles import JudgeConfig, ModelIdentity
from tapir_core.config.run import RunConfig, TrainingConfig
from tapir_core.config.student import EMBEDDED_STUDENT, StudentConfig
from tapir_core.prompts import check_prompts


def check_config(config: RunConfig) -> list[str]:
    """Everything that is wrong with a configuration beside its types, one line each, all at once."""
    return [
        *_check_root(config),
        *([] if config.run.prompts is None else check_prompts(config.run.prompts)),
        *_check_data(config),
        *_check_benchmarks(config),
        *check_student(config.student),
        *_check_judge(config.judge),
        *_check_curriculum(config),
        *_check_training(config.training),
    ]


def missing_prerequisites(config: RunConfig, environ: Mapping[str, str]) -> list[str]:
    """What this machine lacks for the run: keys in the environment, engine interpreters, packages."""
    asked = {name: each for name, each in config.evaluation.asked.items() if name in config.evaluation.each_round}
    return [
        *_missing_keys(config, environ),
        *config.student.lacking(),
        *(f"evaluation.benchmarks.{name}{said}" for name, each in asked.items() for said in each.missing()),
    ]


def _check_root(config: RunConfig) -> Iterator[str]:
    root = config.run.root
    if "://" in root:
        if config.calls.store_url is None:
            yield (
                f'run.root: value "{root}": its runs have no folder for the store of their answers; set '
                "calls.store_url = postgresql://HOST/DATABASE (docs/storage.md)"
            )
        return
    folder = Path(root)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        yield f'run.root: value "{root}": {folder} is a file; name a folder'
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f'run.root: value "{root}": {folder} is not writable; allow it or name another folder'


def _check_file(field: str, path: str | None, remedy: str, *, or_address: bool = False) -> Iterator[str]:
    """That a file is there, where one is named; an address is not looked for."""
    if path is not None and not (or_address and "://" in path) and not Path(path).is_file():
        yield f'{field}: value "{path}": there is no such file; {remedy}'


def _check_data(config: RunConfig) -> Iterator[str]:
    for name, part in (("pool", config.data.pool), ("heldout", config.data.heldout)):
        remedy = f"bring it, or name yours with --set data.{name}.path=FILE (docs/own-data.md)"
        yield from _check_file(f"data.{name}.path", part.file if part else None, remedy, or_address=True)


def _check_benchmarks(config: RunConfig) -> Iterator[str]:
    evaluation = config.evaluation
    for name, benchmark in evaluation.benchmarks.items():
        for field, path in benchmark.all_files.items():
            if "@" in urlsplit(path).netloc:
                yield (
                    f"evaluation.benchmarks.{name}.{field}: an address with a user or password, which would stand in "
                    "the run's folder; bring the file, or use an address without"
                )
            remedy = "bring it from where it is published (docs/evaluation.md), or leave the benchmark out"
            yield from _check_file(f"evaluation.benchmarks.{name}.{field}", path, remedy, or_address=True)
    for name, asked in evaluation.asked.items():
        yield from (f"evaluation.benchmarks.{name}{said}" for said in _check_asked(asked, config))
    for name in evaluation.each_round:
        if name not in evaluation.asked:
            known = ", ".join(evaluation.asked) or "none"
            yield (
                f'evaluation.each_round: value "{name}": is no benchmark with a `type`, so it cannot be asked; '
                f"there are: {known}"
            )


def _check_asked(asked: AskedBenchmark, config: RunConfig) -> Iterator[str]:
    """What is wrong with a benchmark that is asked, each to be put behind its name."""
    if asked.baseline_run is not None and asked.baseline_run.run == config.run.name:
        yield (
            f'.baseline.run: value "{config.run.name}": is this run itself, whose students have not answered when it '
            "starts; name another run (S_0 and the last one are paired anyway)"
        )
    for field, folder in asked.folders.items():
        if not Path(folder).is_dir():
            yield (
                f'.{field}: value "{folder}": there is no such folder; name one that holds the YAML files of tasks, or '
                "leave it out"
            )
    yield from asked.contradictions()
    longest, room = asked.drawn(config.student.sampling).max_tokens, config.student.room
    if room is not None and longest >= room:
        yield (
            f": answers of up to {longest} tokens leave no room for a question in student.engine.max_model_length = "
            f"{room}; lower the first or raise the latter"
        )


def check_student(student: StudentConfig) -> Iterator[str]:
    """What is wrong with a student: its backbone, its chat template, its engine's room."""
    yield from _check_backbone(student)
    yield from _check_file("student.chat_template", student.chat_template, "name a Jinja file or leave it out")
    if student.room is not None and student.sampling.max_tokens >= student.room:
        yield (
            f"student.sampling.max_tokens: value {student.sampling.max_tokens}: leaves no room for a prompt in "
            f"student.engine.max_model_length = {student.room}; lower the first or raise the second"
        )


def _check_backbone(student: StudentConfig) -> Iterator[str]:
    backbone, folder = student.backbone, Path(student.backbone).expanduser()
    is_path = backbone.startswith((".", "/", "~")) or backbone.count("/") > 1 or folder.exists()
    if backbone.startswith("embedded:"):
        if backbone != EMBEDDED_STUDENT:
            yield f'student.backbone: value "{backbone}": unknown; the embedded student is "{EMBEDDED_STUDENT}"'
    elif is_path and not (folder / "config.json").is_file():
        yield (
            f'student.backbone: value "{backbone}": there is no model (no config.json in that folder); '
            f'name a model folder, a hub id such as "org/name", or "{EMBEDDED_STUDENT}"'
        )
    elif is_path and student.chat_template is None and not _has_chat_template(folder):
        yield (
            f'student.backbone: value "{backbone}": has no chat template, as most base models have none; '
            "name a Jinja file in student.chat_template (configs/chat_templates/ has one)"
        )


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_bytes()).get("chat_template"))
    except (OSError, ValueError):
        return False


def _check_judge(judge: JudgeConfig) -> Iterator[str]:
    if judge.mode == "pointwise" and judge.orders != JudgeConfig.model_fields["orders"].default:
        yield (
            'judge.orders: has no effect in judge.mode = "pointwise", which shows one answer a call; '
            'leave it out or set judge.mode = "pairwise"'
        )
    known: dict[ModelIdentity, str] = {}
    for name, who in zip(judge.endpoints, judge.identities, strict=True):
        first = known.setdefault(who, name)
        if first != name:
            yield (
                f"{name}: model {who.model!r} with identity {who.identity!r} is the judge of {first} already, and "
                "its replies would be the same ones; leave it out, or give it another model or identity"
            )


def _check_curriculum(config: RunConfig) -> Iterator[str]:
    expansion, stop, heldout = config.curriculum.expansion, config.curriculum.stop, config.data.heldout
    if expansion.min_chars > expansion.max_chars:
        yield (
            f"curriculum.expansion.min_chars: value {expansion.min_chars}: above max_chars = {expansion.max_chars}, "
            "so that no instruction passes; lower it"
        )
    rounds = {str(number): config.round(number) for number in config.round_numbers}
    barren = [number for number, each in rounds.items() if each.selection.fixed_share == 0 and each.alpha]
    if barren:
        yield (
            f"rounds.{barren[0]}.selection.share: value 0: there are no seeds in the rounds {', '.join(barren)}, and "
            "their hard part (alpha above 0) has nothing to be drawn from; set a share, or alpha = 0"
        )
    if stop.patience and not (heldout and heldout.may_have_dev):
        yield (
            f"curriculum.stop.patience: value {stop.patience}: the stop rule reads the dev split and there is none; "
            "set data.heldout, or patience = 0"
        )


def _check_training(training: TrainingConfig) -> Iterator[str]:
    held = training.micro_batch_size * (training.processes or 1)
    if training.batch_size % held:
        of_all = f" × processes = {training.processes}" if training.processes else ""
        yield (
            f"training.batch_size: value {training.batch_size}: no multiple of micro_batch_size = "
            f"{training.micro_batch_size}{of_all}, and a step accumulates whole micro batches; "
            f"set {-(-training.batch_size // held) * held} or another micro_batch_size"
        )


def _missing_keys(config: RunConfig, environ: Mapping[str, str]) -> Iterator[str]:
    users: dict[str, list[str]] = {}
    for name, part in (
        ("teacher.endpoint", config.teacher.endpoint),
        *config.judge.endpoints.items(),
        *config.evaluation.judges.items(),
        ("student.engine", config.student.engine),
    ):
        if (file := getattr(part, "api_key_file", None)) is not None:
            yield from _missing_key_file(f"{name}.api_key_file", Path(file))
        elif (variable := getattr(part, "api_key_env", None)) is not None:
            users.setdefault(variable, []).append(f"{name}.api_key_env")
    for variable, fields in users.items():
        if not environ.get(variable):
            yield (
                f"the environment variable {variable} is not set ({', '.join(fields)}); "
                f'export {variable}=…, or set the field to "" if the server wants no key'
            )


def _missing_key_file(field: str, file: Path) -> Iterator[str]:
    try:
        if not file.read_text().strip():
            yield f'{field}: value "{file}": the file is empty; write the key into it'
    except (OSError, UnicodeDecodeError) as exc:
        yield f'{field}: value "{file}": the key cannot be read ({exc}); write it there, or use api_key_env'
