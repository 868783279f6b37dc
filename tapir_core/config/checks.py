"""What is wrong with a configuration that can be read: files, folders, keys, fields that contradict each other.

`check_config` finds mistakes in the configuration (exit code 2), `missing_prerequisites` finds what this machine lacks
for it (exit code 1). No network is touched and no engine is loaded.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tapir_core import config as cfg
from tapir_core.config.run import LONGEST_NAME
from tapir_core.config.student import shipped
from tapir_core.paths import baseline_run
from tapir_core.prompts import check_prompts

_WITH_PASSWORD = (
    "an address with a user or password, which would stand in the run's folder; bring the file, or an address without"
)


def check_config(config: cfg.RunConfig) -> list[str]:
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
        *_check_objectives(config),
        *_check_answers(config),
        *_check_thoughts(config),
        *_check_training(config.training),
    ]


def may_have_baseline(config: cfg.RunConfig) -> bool:
    """Whether its run's name leaves room for that of a baseline."""
    return len(_baseline_name(config)) <= LONGEST_NAME


def _baseline_name(config: cfg.RunConfig) -> str:
    """The longest that one of its baselines has."""
    return baseline_run(config.run.name, config.baselines[-1])


def missing_prerequisites(config: cfg.RunConfig, environ: Mapping[str, str]) -> list[str]:
    """What this machine lacks for the run: keys in the environment, engine interpreters, packages."""
    asked = {name: each for name, each in config.evaluation.asked.items() if name in config.evaluation.each_round}
    return [
        *_missing_keys({**config.endpoints, "student.engine": config.student.engine}, environ),
        *config.student.lacking(),
        *_missing_servers(config),
        *(f"evaluation.benchmarks.{name}{said}" for name, each in asked.items() for said in each.missing()),
    ]


def missing_for_calls(config: cfg.RunConfig, environ: Mapping[str, str]) -> list[str]:
    """What this machine lacks to ask teacher and judges alone."""
    return [*_missing_keys(config.endpoints, environ), *_missing_servers(config)]


def _missing_servers(config: cfg.RunConfig) -> Iterator[str]:
    """What would serve teacher and judges, where the run does."""
    for field, each in config.endpoints.items():
        yield from each.lacking(field)


def _check_root(config: cfg.RunConfig) -> list[str]:
    root, is_remote = config.run.root, "://" in config.run.root
    folder = next(each for each in (Path(root), *Path(root).parents) if os.path.exists(each))
    return cfg.problems(
        {
            f'run.root: value "{root}": its runs have no folder for the store of their answers; set calls.store_url = '
            "postgresql://HOST/DATABASE (docs/storage.md)": is_remote and config.calls.store_url is None,
            f'run.root: value "{root}": is no folder here; write the path of one, without ~': root[:1] in ("", "~"),
            f'run.root: value "{root}": {folder} is a file; name a folder': not is_remote and not folder.is_dir(),
            f'run.root: value "{root}": {folder} is not writable; allow it or name another folder': (
                not is_remote and folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK)
            ),
        }
    )


def _is_missing(path: str) -> bool:
    """Whether a file is not there; an address is not looked for."""
    return "://" not in path and not os.path.isfile(path)


def _check_data(config: cfg.RunConfig) -> list[str]:
    parts = {"pool": config.data.pool, "heldout": config.data.heldout}
    files = {f"data.{name}.{field}": path for name, part in parts.items() if part for field, path in part.files.items()}
    missing = "there is no such file; bring it, or name yours with --set"
    return cfg.problems(
        {
            f'{at}: value "{path}": {missing} {at}=FILE (docs/own-data.md)': _is_missing(path)
            for at, path in files.items()
        }
        | {f"{at}: {_WITH_PASSWORD}": "@" in path.partition("://")[2].partition("/")[0] for at, path in files.items()}
    )


def _check_benchmarks(config: cfg.RunConfig) -> Iterator[str]:
    evaluation = config.evaluation
    for name, benchmark in evaluation.benchmarks.items():
        for field, path in benchmark.all_files.items():
            at = f"evaluation.benchmarks.{name}.{field}"
            yield from cfg.problems(
                {
                    f"{at}: {_WITH_PASSWORD}": "@" in path.partition("://")[2].partition("/")[0],
                    f'{at}: value "{path}": there is no such file; bring it from where it is published '
                    "(docs/evaluation.md), or leave the benchmark out": _is_missing(path),
                }
            )
    for name, asked in evaluation.asked.items():
        yield from (f"evaluation.benchmarks.{name}{said}" for said in _check_asked(asked, config))
    yield from cfg.problems(
        {
            f'evaluation.each_round: value "{name}": is no benchmark with a `type`, so it cannot be asked; there are: '
            f"{', '.join(evaluation.asked) or 'none'}": name not in evaluation.asked
            for name in evaluation.each_round
        }
    )


def _check_asked(asked: cfg.AskedBenchmark, config: cfg.RunConfig) -> list[str]:
    """What is wrong with a benchmark that is asked, each to be put behind its name."""
    longest, room = asked.drawn(config.student.sampling).max_tokens, config.student.room
    baseline, name = asked.baseline_run, config.run.name
    wrong = {
        **{
            f'.{field}: value "{folder}": there is no such folder; name one that holds the YAML files of tasks, or '
            "leave it out": not os.path.isdir(folder)
            for field, folder in asked.folders.items()
        },
        f'.baseline.run: value "{name}": is this run itself, whose students have not answered when it starts; name '
        "another run (S_0 and the last one are paired anyway)": baseline is not None and baseline.run == name,
        f": answers of up to {longest} tokens leave no room for a question in student.engine.max_model_length = "
        f"{room}; lower the first or raise the latter": room is not None and longest >= room,
    }
    return [*cfg.problems(wrong), *asked.contradictions()]


def _check_baseline(config: cfg.RunConfig) -> list[str]:
    name, is_scored = config.run.name, config.data.heldout is not None or config.evaluation.each_round
    wrong = {
        'evaluation.baseline: value "sft": nothing would score it; set data.heldout, or "none"': not is_scored,
        f'run.name: value "{name}": that of its baseline, {_baseline_name(config)}, has more than {LONGEST_NAME} '
        'characters; shorten it, or set evaluation.baseline = "none"': not may_have_baseline(config),
    }
    return cfg.problems(wrong) if config.evaluation.baseline == "sft" else []


def check_student(student: cfg.StudentConfig) -> list[str]:
    """What is wrong with a student: its backbone, its chat template, its engine's room."""
    backbone, folder, template = student.backbone, Path(os.path.expanduser(student.backbone)), student.template
    is_embedded, has_model = backbone.startswith("embedded:"), (folder / "config.json").is_file()
    is_path = backbone.startswith((".", "/", "~")) or backbone.count("/") != 1 or folder.exists()
    longest, room = student.sampling.max_tokens, student.room
    return cfg.problems(
        {
            f'student.backbone: value "{backbone}": unknown; the embedded student is "{cfg.EMBEDDED_STUDENT}"': (
                is_embedded and backbone != cfg.EMBEDDED_STUDENT
            ),
            f'student.backbone: value "{backbone}": there is no model (no config.json in that folder); name a model '
            f'folder, a hub id such as "org/name", or "{cfg.EMBEDDED_STUDENT}"': (
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


def _check_verifier(config: cfg.RunConfig) -> list[str]:
    """What is wrong with the verifier, as far as its module is not imported."""
    verifier = config.judge.verifier
    if verifier is None:
        return []
    judged = [name for name, each in config.evaluation.judged.items() if each.judge is None]
    return cfg.problems(
        {
            f'judge.verifier.function: value "{verifier.function}": there is no module {verifier.module!r} in '
            f"{verifier.path[0]} or among the installed packages; bring it, or name its folder in "
            "judge.verifier.folder": verifier.function not in cfg.SHIPPED and verifier.source is None,
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


def _check_served(config: cfg.RunConfig) -> list[str]:
    """What is wrong with teacher and judges that the run is to serve."""
    served = {field: each for field, each in config.endpoints.items() if isinstance(each, cfg.VllmEndpoint)}
    longest = _longest_answers(config)
    first, one = next(iter(served.items()), ("", None))
    asked_at_once = any(map(config.checks_expansion, config.round_numbers))
    return cfg.problems(
        {
            f'{field}: type = "vllm" with other fields than {first}: a run serves one model beside its student; let '
            "both have the same fields, or serve one of them yourself": each != one
            for field, each in served.items()
        }
        | {
            f'{first}: type = "vllm" cannot be with curriculum.expansion.check_difficulty, which asks teacher, student '
            "and judge about each new instruction, while these have the machine in turn; leave one of the two out": (
                one is not None and asked_at_once and config.student.engine.served_by != "others"
            )
        }
        | {
            f"{field}.max_model_length: value {each.max_model_length}: leaves no room for a prompt beside an answer of "
            f"{longest[field]} tokens; raise it": longest[field] >= each.max_model_length
            for field, each in served.items()
        }
    )


def _longest_answers(config: cfg.RunConfig) -> dict[str, int]:
    """Tokens of the longest answer that is asked of teacher and judges, by field."""
    teacher, judge = config.teacher, config.judge.sampling.max_tokens
    taught = max(
        each.max_tokens for each in (teacher.answering, teacher.labelling, teacher.expanding, teacher.refining)
    )
    longest = {field: taught if field == "teacher.endpoint" else judge for field in config.endpoints}
    for name, benchmark in config.evaluation.judged.items():
        field = "judge.endpoint" if benchmark.judge is None else f"evaluation.benchmarks.{name}.judge"
        longest[field] = max(longest.get(field, 0), benchmark.sampling.max_tokens)
    return longest


def _contradictions(config: cfg.RunConfig) -> list[str]:
    """What fields of the judge, of the student and of the curriculum say against each other."""
    judge, expansion, stop = config.judge, config.curriculum.expansion, config.curriculum.stop
    judges = list(zip(judge.endpoints, judge.identities, strict=True))
    first = {who: name for name, who in reversed(judges)}
    rounds = {str(number): config.round(number) for number in config.round_numbers}
    barren = ", ".join(name for name, each in rounds.items() if each.selection.fixed_share == 0 and each.alpha)
    full = ", ".join(name for name, each in rounds.items() if each.selection.fixed_share == 1 and each.alpha != 1)
    return cfg.problems(
        {
            f'judge.orders: has no effect in judge.mode = "{judge.mode}", which shows one answer a call; leave it out '
            'or set judge.mode = "pairwise"': (
                not judge.asked_as.shows_both and judge.orders != cfg.JudgeConfig.model_fields["orders"].default
            ),
            **{
                f"{name}: model {who.model!r} with identity {who.identity!r} is the judge of {first[who]} already, and "
                "its replies would be the same ones; leave it out, or give it another model or identity": (
                    name != first[who]
                )
                for name, who in judges
            },
            f'student.average: value "{config.student.average}": with run.rounds = {config.run.rounds} there is one '
            "student and nothing to average; set run.rounds = 2 or more, or leave it out": (
                config.student.average and config.run.rounds < 2
            ),
            f"curriculum.expansion.min_chars: value {expansion.min_chars}: above max_chars = {expansion.max_chars}, so "
            "that no instruction passes; lower it": expansion.min_chars > expansion.max_chars,
            f"rounds.{barren.partition(',')[0]}.selection.share: value 0: without seeds (round {barren}) "
            "the hard part (alpha above 0) has nothing to be drawn from; set a share, or alpha = 0": barren,
            f"rounds.{full.partition(',')[0]}.selection.share: value 1: where all instructions are "
            f"seeds (round {full}) the easy part (alpha below 1) has nothing to be drawn from; set a lower share, or "
            "alpha = 1": full,
            **{
                f"curriculum.stop.{name}: value {getattr(stop, name)}: the stop rule reads the dev split and there is "
                f"none; set data.heldout, or {name} = {default}": getattr(stop, name) != default
                for name, default in stop.with_mark("dev").items()
                if not config.data.may_have_dev
            },
        }
    )


def _check_objectives(config: cfg.RunConfig) -> list[str]:
    """What rounds lack for what they are to learn."""
    rounds = {str(number): config.round(number) for number in config.round_numbers}
    rolled = [name for name, each in rounds.items() if each.objective.rolls_out]
    own = {name: each for name, each in rounds.items() if each.objective.reads_answers}
    answered_by = config.data.pool.answers_of
    return cfg.problems(
        {
            f'rounds.{", ".join(rolled[:1])}.objective: value "on_policy": the teacher at teacher.endpoint (type = '
            f'"{config.teacher.endpoint.type}") cannot score token ids; serve its open weights by the run, with '
            'teacher.endpoint = { type = "vllm", model = "FOLDER" }, or let the round "prefer"': (
                rolled and not isinstance(config.teacher.endpoint, cfg.VllmEndpoint)
            ),
            f'data.pool.answered_by: value "{answered_by}": round {", ".join(rolled)} learns from scores of teacher '
            f'{config.teacher.endpoint.name}, and began with answers of another; set data.pool.answers = "ignore", or '
            f'answered_by = "{config.teacher.endpoint.name}" where they are its own': (
                rolled and answered_by not in ("", config.teacher.endpoint.name)
            ),
            **{
                f'rounds.{name}.objective: value "{each.objective.type}": learns from verdicts on the student\'s '
                f"answers, and round {name} has none of its own; set rounds.{name}.selection = "
                '{ type = "hard_share" }, and leave curriculum.rejudge = true': not config.judges(int(name))
                for name, each in own.items()
            },
            **{
                f'rounds.{name}.alpha: value {each.alpha:g}: a round that is to "{each.objective.type}" has no easy '
                "part; leave alpha out of its entry": each.alpha != 1
                for name, each in own.items()
            },
        }
    )


def _check_thoughts(config: cfg.RunConfig) -> list[str]:
    """What has no thoughts, where they are to be trained."""
    at, curriculum = f'teacher.thinking: value "{config.teacher.thinking}": ', config.curriculum
    others = [str(each) for each in config.round_numbers if config.round(each).objective.type != "imitate"]
    found = {
        f"{at}new instructions come without thoughts; set curriculum.expansion.max_waves = 0": (
            curriculum.expansion.max_waves > 0
        ),
        f"{at}refined answers have none; set curriculum.refine = false": curriculum.refine,
        f'{at}they are taken out of its replies; leave out teacher.endpoint.thinking = "strip"': (
            getattr(config.teacher.endpoint, "thinking", "keep") == "strip"
        ),
        f"{at}round {', '.join(others)} learns from answers without thoughts; let it imitate": others,
    }
    return cfg.problems(found) if config.teacher.thinking != "drop" else []


def _check_answers(config: cfg.RunConfig) -> list[str]:
    """What plain answers cannot be as they are asked for."""
    teacher, several = config.teacher, config.teacher.answers_per_prompt > 1
    at = f"teacher.answers_per_prompt: value {teacher.answers_per_prompt}: "
    return cfg.problems(
        {
            "teacher.answer_schema: refined answers are prose, and obey none; set curriculum.refine = false": (
                bool(teacher.answer_schema) and config.curriculum.refine
            ),
            f"{at}at temperature 0 all answers are the same; set teacher.answering.temperature = 0.7": (
                several and teacher.answering.temperature == 0
            ),
            'teacher.answers_used: value "best": no verifier scores the answers; name one in judge.verifier with '
            '"filter" in its uses, or take "all" or "likeliest"': (
                several and teacher.answers_used == "best" and config.judge.verifies("filter") is None
            ),
        }
    )


def _check_training(training: cfg.TrainingConfig) -> list[str]:
    """What fields of training say against each other."""
    held = training.micro_batch_size * (training.processes or 1) * training.nodes
    least_stage = {"none": 0, "optimizer": 2, "all": 3}[training.offload]
    of_all = f" × processes = {training.processes}" if training.processes else ""
    of_all += f" × nodes = {training.nodes}" if training.nodes > 1 else ""
    return cfg.problems(
        {
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


def _missing_keys(parts: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[str]:
    """Of whoever is asked, by the field that sets it."""
    users: dict[str, list[str]] = {}
    for name, part in parts.items():
        file, variable = getattr(part, "api_key_file", None), getattr(part, "api_key_env", None)
        if file is not None:
            yield from _missing_key_file(f"{name}.api_key_file", Path(file))
        elif variable is not None:
            users.setdefault(variable, []).append(f"{name}.api_key_env")
    yield from cfg.problems(
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
