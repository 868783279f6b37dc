"""From a TOML file and `--set` to a checked configuration, and from a `RunConfig` to its resolved JSON and back.

Every problem of a file is reported at once. What an earlier version of tapir resolved is translated on reading, so that
its runs stay readable. A configuration is one file, and may extend one preset; variables are not supported.

A valid configuration may still be wrong on this machine: files, folders, keys, fields that contradict. `check_config`
finds mistakes in the configuration (exit code 2), `missing_prerequisites` finds what this machine lacks for it (exit
code 1). No network is touched and no engine is loaded.
"""

import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from tapir_core.config import (
    EMBEDDED_STUDENT,
    SHIPPED,
    AskedBenchmark,
    JudgeConfig,
    RunConfig,
    Section,
    StudentConfig,
    problems,
)
from tapir_core.config.reference import explain
from tapir_core.config.run import LONGEST_NAME
from tapir_core.config.served import check_served
from tapir_core.config.student import PRESETS, shipped
from tapir_core.errors import ConfigError
from tapir_core.paths import RESOLVED_CONFIG, baseline_run
from tapir_core.prompts import check_prompts

Table = dict[str, Any]
AnySection = TypeVar("AnySection", bound=Section)

_FIRST_STANDIN = "c77237e37faa"


def _name_standin(table: Table, version: str = _FIRST_STANDIN) -> None:
    """Version 2 says which stand-in answered: until then there was one."""
    if "position_bias" in table:
        table["version"] = version
    for value in table.values():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                _name_standin(inner, version)


def _name_defaults(table: Table) -> None:
    """Version 3 names its chat templates, and has adapters learn at a rate of their own where none is set."""
    if isinstance(student := table.get("student"), dict):
        template = student.get("chat_template")
        if template in ("configs/chat_templates/chatml.jinja", "configs/chat_templates/plain.jinja"):
            student["chat_template"] = Path(template).stem
    if isinstance(training := table.get("training"), dict) and training.get("lora") is not None:
        for section in (table.setdefault("basic_tuning", {}), table.setdefault("rounds", {}).setdefault("default", {})):
            section.setdefault("learning_rate", 2e-5)


TRANSLATIONS: list[Callable[[Table], None]] = [_name_standin, _name_defaults]
"""Each makes a resolved configuration of version 1, 2, … one of the next version, in place.

Whoever renames or removes a field appends what moves or drops it. It bears tables that lack the field.
"""


def load_config(path: str | Path, overrides: Sequence[str] = (), name: str | None = None) -> RunConfig:
    """Read a configuration.

    Args:
        path: a TOML file.
        overrides: `section.field=value`, applied in order after the file; a value is TOML, or else text.
        name: replaces `run.name`, after everything else.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong; carries every problem found.
    """
    given = [*overrides, *([f"run.name={json.dumps(name, ensure_ascii=False)}"] if name is not None else [])]
    table = _extended(read_toml(Path(path)), Path(path).parent, given)
    return _located(validated(RunConfig, table, str(path), given), Path(path).parent)


def _located(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with the folder of its file, where its verifier is looked for."""
    verifier = config.judge.verifier
    if verifier is None or verifier.folder:
        return config
    located = verifier.model_copy(update={"folder": str(folder)})
    return config.model_copy(update={"judge": config.judge.model_copy(update={"verifier": located})})


def replace_values(config: RunConfig, overrides: Sequence[str], *, source: str = RESOLVED_CONFIG) -> RunConfig:
    """A configuration with values replaced, as `--set` writes them.

    Raises:
        ConfigError: carries every problem found.
    """
    return validated(RunConfig, config.model_dump(mode="json"), source, overrides)


def with_changes(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """A configuration with values replaced: path of a field, through lists too → its value.

    Raises:
        ConfigError: carries every problem found.
    """
    table = config.model_dump(mode="json")
    for path, value in changes.items():
        *steps, name = path.split(".")
        part: Any = table
        for step in steps:
            part = part[int(step) if isinstance(part, list) else step]
        part[name] = value
    return validated(RunConfig, table, RESOLVED_CONFIG)


def spell_out_rounds(config: RunConfig) -> RunConfig:
    """The same with an entry for each round, so that one can be changed without touching those after it."""
    entries = {str(number): config.round(number).model_dump(mode="json") for number in config.round_numbers}
    return RunConfig.model_validate({**config.model_dump(mode="json"), "rounds": entries})


def validated(root: type[AnySection], table: Table, source: str, overrides: Sequence[str] = ()) -> AnySection:
    """What a table, with the overrides written into it, says.

    Raises:
        ConfigError: carries every problem found; ``source`` is where the table is from.
    """
    wrong = [said for override in overrides for said in _apply(table, override)]
    try:
        found = root.model_validate(table)
    except ValidationError as error:
        wrong += explain(error, [override.partition("=")[0].strip() for override in overrides], root)
    if wrong:
        raise ConfigError(wrong, source=source)
    return found


def resolved_json(config: RunConfig) -> str:
    """The configuration with every default written out; equal configurations give equal text. Holds no secret."""
    return json.dumps(resolved_table(config), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def resolved_table(config: RunConfig) -> Table:
    """What `resolved_json` writes, with its version."""
    return config.model_dump(mode="json") | {"version": _newest()}


def answered_by(config: RunConfig, standin: str) -> RunConfig:
    """The same with this version of the stand-in wherever it answers."""
    table = config.model_dump(mode="json")
    _name_standin(table, standin)
    return RunConfig.model_validate(table)


def load_resolved(content: bytes | str, *, source: str = RESOLVED_CONFIG) -> RunConfig:
    """Read what `resolved_json` wrote, now or in an earlier version of tapir.

    Raises:
        ConfigError: it is no JSON, or a later version of tapir wrote it.
    """
    try:
        table = json.loads(content)
    except ValueError as exc:
        raise ConfigError(f"{source} is no JSON ({exc}); it was edited or damaged") from exc
    blamed = f"{source} (a newer version of tapir wrote it, or it was edited: go on with the version that wrote it)"
    if isinstance(table, dict):
        version = table.pop("version", 1)
        if version not in range(1, _newest() + 1):
            problem = f"version: value {version!r}: this version of tapir reads up to {_newest()}"
            raise ConfigError([problem], source=blamed)
        for translate in TRANSLATIONS[version - 1 :]:
            translate(table)
    return validated(RunConfig, table, blamed)


def _extended(table: Table, folder: Path, overrides: Sequence[str]) -> Table:
    """The table over the preset that its `extends` names: a shipped one (`presets/NAME`), or a file beside its own.

    A preset without adapters has learning rates for all weights, which those of the table or of ``overrides`` do not
    take.

    Raises:
        ConfigError: there is no such preset, or it extends another one.
    """
    name = table.pop("extends", None)
    if name is None:
        return table
    is_shipped = isinstance(name, str) and name.startswith("presets/")
    path = PRESETS.parent / f"{name}.toml" if is_shipped else folder / str(name)
    if not path.is_file():
        names = ", ".join(f"presets/{each}" for each in shipped("toml"))
        raise ConfigError(f"extends: value {name!r}: there is no such preset; shipped are {names}")
    preset = read_toml(path)
    if "extends" in preset:
        raise ConfigError(f"extends: value {name!r}: {path} extends another one, and one level is the limit")
    own_adapters = "lora" in table.get("training", {}) or any(each.startswith("training.lora") for each in overrides)
    if own_adapters and "lora" not in preset.get("training", {}):
        for section in (preset.get("basic_tuning", {}), *preset.get("rounds", {}).values()):
            section.pop("learning_rate", None)
    return _merged(preset, table)


def _merged(below: Table, above: Table) -> Table:
    """``above`` over ``below``, table by table; one of another `type` takes the place of all that is below it."""
    merged = dict(below)
    for name, value in above.items():
        under = below.get(name)
        if (
            isinstance(value, dict)
            and isinstance(under, dict)
            and value.get("type", under.get("type")) == under.get("type")
        ):
            merged[name] = _merged(under, value)
        else:
            merged[name] = value
    return merged


def read_toml(path: Path) -> Table:
    """A TOML file's content.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as exc:
        raise ConfigError(f"there is no configuration {str(path)!r}; see the shipped ones in configs/") from exc
    except OSError as exc:
        raise ConfigError(f"configuration {str(path)!r} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"configuration {str(path)!r} is no TOML in UTF-8: {exc}; repair it") from exc


def _newest() -> int:
    """Version of the configurations that are written now."""
    return 1 + len(TRANSLATIONS)


def _apply(table: Table, override: str) -> Iterator[str]:
    """Write one override into the table, or say what is wrong with it."""
    path, equals, text = override.partition("=")
    steps = [step.strip() for step in path.split(".")]
    if not equals or not all(steps):
        yield f"--set {override}: write --set section.field=value"
        return
    for depth, step in enumerate(steps[:-1], start=1):
        table = table.setdefault(step, {})
        if not isinstance(table, dict):
            yield f"--set {override}: {'.'.join(steps[:depth])} is a value and has no fields"
            return
    table[steps[-1]] = _read_value(text.strip())


def _read_value(text: str) -> Any:
    """The text as a TOML value; what is none, or is a date, which no field holds, stays text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    is_value = len(parsed) == 1 and isinstance(parsed["value"], str | int | float | list | dict)
    return parsed["value"] if is_value else text


def check_config(config: RunConfig) -> list[str]:
    """Everything that is wrong with a configuration beside its types, one line each, all at once."""
    return [
        *_check_root(config),
        *([] if config.run.prompts is None else check_prompts(config.run.prompts)),
        *_check_data(config),
        *_check_benchmarks(config),
        *_check_baseline(config),
        *check_student(config.student),
        *_check_verifier(config),
        *_check_served(config),
        *_contradictions(config),
    ]


def may_have_baseline(config: RunConfig) -> bool:
    """Whether its run's name leaves room for that of a baseline."""
    return len(baseline_run(config.run.name)) <= LONGEST_NAME


def missing_prerequisites(config: RunConfig, environ: Mapping[str, str]) -> list[str]:
    """What this machine lacks for the run: keys in the environment, engine interpreters, packages."""
    asked = {name: each for name, each in config.evaluation.asked.items() if name in config.evaluation.each_round}
    return [
        *_missing_keys(config, environ),
        *config.student.lacking(),
        *(said for field, each in config.endpoints.items() for said in each.lacking(field)),
        *(f"evaluation.benchmarks.{name}{said}" for name, each in asked.items() for said in each.missing()),
    ]


def _check_root(config: RunConfig) -> list[str]:
    root, is_remote = config.run.root, "://" in config.run.root
    folder = next(each for each in (Path(root), *Path(root).parents) if each.exists())
    return problems(
        {
            f'run.root: value "{root}": its runs have no folder for the store of their answers; set calls.store_url = '
            "postgresql://HOST/DATABASE (docs/storage.md)": is_remote and config.calls.store_url is None,
            f'run.root: value "{root}": {folder} is a file; name a folder': not is_remote and not folder.is_dir(),
            f'run.root: value "{root}": {folder} is not writable; allow it or name another folder': (
                not is_remote and folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK)
            ),
        }
    )


def _is_missing(path: str | None) -> bool:
    """Whether a file is named that is not there; an address is not looked for."""
    return path is not None and "://" not in path and not Path(path).is_file()


def _check_data(config: RunConfig) -> list[str]:
    of_heldout = "heldout.references" if config.data.judged else "heldout.path"
    parts = {"pool.path": config.data.pool, of_heldout: config.data.heldout}
    return problems(
        {
            f'data.{name}: value "{part.file}": there is no such file; bring it, or name yours with '
            f"--set data.{name}=FILE (docs/own-data.md)": _is_missing(part.file)
            for name, part in parts.items()
            if part is not None
        }
    )


def _check_benchmarks(config: RunConfig) -> Iterator[str]:
    evaluation = config.evaluation
    for name, benchmark in evaluation.benchmarks.items():
        for field, path in benchmark.all_files.items():
            at = f"evaluation.benchmarks.{name}.{field}"
            yield from problems(
                {
                    f"{at}: an address with a user or password, which would stand in the run's folder; bring the file, "
                    "or use an address without": "@" in urlsplit(path).netloc,
                    f'{at}: value "{path}": there is no such file; bring it from where it is published '
                    "(docs/evaluation.md), or leave the benchmark out": _is_missing(path),
                }
            )
    for name, asked in evaluation.asked.items():
        yield from (f"evaluation.benchmarks.{name}{said}" for said in _check_asked(asked, config))
    known = ", ".join(evaluation.asked) or "none"
    yield from problems(
        {
            f'evaluation.each_round: value "{name}": is no benchmark with a `type`, so it cannot be asked; there are: '
            f"{known}": name not in evaluation.asked
            for name in evaluation.each_round
        }
    )


def _check_asked(asked: AskedBenchmark, config: RunConfig) -> list[str]:
    """What is wrong with a benchmark that is asked, each to be put behind its name."""
    longest, room = asked.drawn(config.student.sampling).max_tokens, config.student.room
    baseline, name = asked.baseline_run, config.run.name
    lacking = {
        f'.{field}: value "{folder}": there is no such folder; name one that holds the YAML files of tasks, or leave '
        "it out": not Path(folder).is_dir()
        for field, folder in asked.folders.items()
    }
    others = {
        f'.baseline.run: value "{name}": is this run itself, whose students have not answered when it starts; name '
        "another run (S_0 and the last one are paired anyway)": baseline is not None and baseline.run == name,
        f": answers of up to {longest} tokens leave no room for a question in student.engine.max_model_length = "
        f"{room}; lower the first or raise the latter": room is not None and longest >= room,
    }
    return [*problems(lacking | others), *asked.contradictions()]


def _check_baseline(config: RunConfig) -> list[str]:
    name, is_scored = config.run.name, config.data.heldout is not None or config.evaluation.each_round
    wrong = {
        'evaluation.baseline: value "sft": nothing would score it; set data.heldout, or "none"': not is_scored,
        f'run.name: value "{name}": that of its baseline, {baseline_run(name)}, has more than {LONGEST_NAME} '
        'characters; shorten it, or set evaluation.baseline = "none"': not may_have_baseline(config),
    }
    return problems(wrong) if config.evaluation.baseline == "sft" else []


def check_student(student: StudentConfig) -> list[str]:
    """What is wrong with a student: its backbone, its chat template, its engine's room."""
    backbone, folder, template = student.backbone, Path(student.backbone).expanduser(), student.template
    is_embedded, has_model = backbone.startswith("embedded:"), (folder / "config.json").is_file()
    is_path = backbone.startswith((".", "/", "~")) or backbone.count("/") > 1 or folder.exists()
    longest, room = student.sampling.max_tokens, student.room
    return problems(
        {
            f'student.backbone: value "{backbone}": unknown; the embedded student is "{EMBEDDED_STUDENT}"': (
                is_embedded and backbone != EMBEDDED_STUDENT
            ),
            f'student.backbone: value "{backbone}": there is no model (no config.json in that folder); name a model '
            f'folder, a hub id such as "org/name", or "{EMBEDDED_STUDENT}"': (
                is_path and not is_embedded and not has_model
            ),
            f'student.backbone: value "{backbone}": has no chat template, as most base models have none; name a Jinja '
            "file in student.chat_template, or `plain`": (
                is_path and not is_embedded and has_model and template is None and not _has_chat_template(folder)
            ),
            f'student.chat_template: value "{template}": there is no such file, and no such template is shipped (there '
            f"are {', '.join(shipped('jinja'))}); name a Jinja file or leave it out": (
                template is not None and not template.is_file()
            ),
            f"student.sampling.max_tokens: value {longest}: leaves no room for a prompt in "
            f"student.engine.max_model_length = {room}; lower the first or raise the second": (
                room is not None and longest >= room
            ),
        }
    )


def _check_verifier(config: RunConfig) -> list[str]:
    """What is wrong with the verifier, as far as its module is not imported."""
    verifier = config.judge.verifier
    if verifier is None:
        return []
    judged = [name for name, each in config.evaluation.judged.items() if each.judge is None]
    return problems(
        {
            f'judge.verifier.function: value "{verifier.function}": there is no module {verifier.module!r} in '
            f"{verifier.path[0]} or among the installed packages; bring it, or name its folder in "
            "judge.verifier.folder": verifier.function not in SHIPPED and verifier.source is None,
            f"judge.verifier.only: true: the benchmarks {', '.join(judged)} have no judge then; name one in "
            f"evaluation.benchmarks.{', '.join(judged[:1])}.judge": verifier.only and judged,
        }
    )


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_bytes()).get("chat_template"))
    except (OSError, ValueError):
        return False


def _check_served(config: RunConfig) -> list[str]:
    teacher, judge = config.teacher, config.judge.sampling.max_tokens
    answers = (teacher.answering, teacher.labelling, teacher.expanding, teacher.refining)
    taught = max(each.max_tokens for each in answers)
    longest = {field: taught if field == "teacher.endpoint" else judge for field in config.endpoints}
    return check_served(config.endpoints, longest)


def _contradictions(config: RunConfig) -> list[str]:
    """What fields of the judge, of the curriculum and of training say against each other."""
    judge, expansion, stop, training = (
        config.judge,
        config.curriculum.expansion,
        config.curriculum.stop,
        config.training,
    )
    judges = list(zip(judge.endpoints, judge.identities, strict=True))
    first = {who: name for name, who in reversed(judges)}
    rounds = {str(number): config.round(number) for number in config.round_numbers}
    barren = ", ".join(name for name, each in rounds.items() if each.selection.fixed_share == 0 and each.alpha)
    full = ", ".join(name for name, each in rounds.items() if each.selection.fixed_share == 1 and each.alpha != 1)
    held = training.micro_batch_size * (training.processes or 1) * training.nodes
    least_stage = {"none": 0, "optimizer": 2, "all": 3}[training.offload]
    of_all = f" × processes = {training.processes}" if training.processes else ""
    of_all += f" × nodes = {training.nodes}" if training.nodes > 1 else ""
    return problems(
        {
            'judge.orders: has no effect in judge.mode = "pointwise", which shows one answer a call; leave it out or '
            'set judge.mode = "pairwise"': (
                judge.mode == "pointwise" and judge.orders != JudgeConfig.model_fields["orders"].default
            ),
            **{
                f"{name}: model {who.model!r} with identity {who.identity!r} is the judge of {first[who]} already, and "
                "its replies would be the same ones; leave it out, or give it another model or identity": (
                    name != first[who]
                )
                for name, who in judges
            },
            f"curriculum.expansion.min_chars: value {expansion.min_chars}: above max_chars = {expansion.max_chars}, so "
            "that no instruction passes; lower it": expansion.min_chars > expansion.max_chars,
            f"rounds.{barren.partition(',')[0]}.selection.share: value 0: there are no seeds in the rounds {barren}, "
            "and their hard part (alpha above 0) has nothing to be drawn from; set a share, or alpha = 0": barren,
            f"rounds.{full.partition(',')[0]}.selection.share: value 1: the whole pool are seeds in the rounds {full}, "
            "and their easy part (alpha below 1) has nothing to be drawn from; set a lower share, or alpha = 1": full,
            f"curriculum.stop.patience: value {stop.patience}: the stop rule reads the dev split and there is none; "
            "set data.heldout, or patience = 0": (
                stop.patience and (config.data.heldout is None or not config.data.heldout.may_have_dev)
            ),
            f"training.batch_size: value {training.batch_size}: no multiple of micro_batch_size = "
            f"{training.micro_batch_size}{of_all}, and a step accumulates whole micro batches; "
            f"set {-(-training.batch_size // held) * held} or another micro_batch_size": training.batch_size % held,
            f'training.offload: value "{training.offload}": cannot be with zero_stage = {training.zero_stage}, which '
            f"does not partition what would be moved; set training.zero_stage = {least_stage}": (
                training.zero_stage < least_stage
            ),
            f'training.lora.quantization: value "nf4": ZeRO-3 cannot partition weights of 4 bits (zero_stage = '
            f"{training.zero_stage}); set training.zero_stage = 2": training.quantized and training.zero_stage == 3,
            'training.attention: value "flash_attention_2" computes in bf16 only, and training.precision is "fp32"; '
            "leave one of the two out": training.attention == "flash_attention_2" and training.precision == "fp32",
            f"training.nodes: value {training.nodes}: a driver trains on its own machine alone; set "
            'training.runs_on = "worker", or leave nodes out': training.nodes > 1 and training.runs_on == "driver",
        }
    )


def _missing_keys(config: RunConfig, environ: Mapping[str, str]) -> Iterator[str]:
    users: dict[str, list[str]] = {}
    for name, part in (*config.endpoints.items(), ("student.engine", config.student.engine)):
        file, variable = getattr(part, "api_key_file", None), getattr(part, "api_key_env", None)
        if file is not None:
            yield from _missing_key_file(f"{name}.api_key_file", Path(file))
        elif variable is not None:
            users.setdefault(variable, []).append(f"{name}.api_key_env")
    yield from problems(
        {
            f"the environment variable {variable} is not set ({', '.join(fields)}); "
            f'export {variable}=…, or set the field to "" if the server wants no key': not environ.get(variable)
            for variable, fields in users.items()
        }
    )


def _missing_key_file(field: str, file: Path) -> Iterator[str]:
    try:
        if not file.read_text().strip():
            yield f'{field}: value "{file}": the file is empty; write the key into it'
    except (OSError, UnicodeDecodeError) as exc:
        yield f'{field}: value "{file}": the key cannot be read ({exc}); write it there, or use api_key_env'
