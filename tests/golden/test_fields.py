"""Every field of the configuration changes a key, or is marked as `Free`: then it changes none.

Each field is set to another value wherever it stands in the configurations of `BASES`, and the keys of all stages are
compared. A new field or kind needs no line here, unless no base has its kind or none of the other values suits it.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_origin

import pytest
from pydantic import ValidationError

from tapir_core.config import EndpointConfig, Kind, Later, RunConfig, Section, StudentEngine
from tapir_core.config.load import load_config
from tests.golden.adapter import stage_keys_of
from tests.golden.test_keys import sections_below, types_in

ROOT = Path(__file__).parents[2]
_OPENAI = (
    'type = "openai", model = "m", identity = "i", base_url = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"], '
    'api_key_env = "KEY", api_key_file = "f", requests_per_minute = 9.0, tokens_per_minute = 9.0, mode = "batch", '
    "usd_per_million_prompt_tokens = 1.0, usd_per_million_completion_tokens = 1.0, "
    'proxy = "http://127.0.0.1:3", tokens_field = "max_tokens", seed = true'
)
_FILES = 'questions = "q.jsonl", baseline = "b.jsonl"'
_BENCHMARKS = [
    'evaluation.benchmarks.apart={ questions = "q.jsonl" }',
    f'evaluation.benchmarks.alpaca={{ type = "alpaca_eval", {_FILES}, difficulty = "d", anchors = "a", '
    f'answering = {{}}, judge = {{ {_OPENAI} }}, outputs = {{ gpt = "gpt.json" }} }}',
    'evaluation.benchmarks.mt={ type = "mt_bench", questions = "q.jsonl", references = "r", '
    'judge = { type = "standin" } }',
    'evaluation.benchmarks.vicuna={ type = "vicuna", questions = "q", baseline = { run = "r", round = 1, '
    'benchmark = "v" } }',
    'evaluation.benchmarks.task={ type = "lm_eval", task = "ifeval", questions = "q", examples = "e", '
    'include_path = "tasks" }',
    'evaluation.each_round=["alpaca", "mt", "vicuna", "task"]',
]
BASES = {
    "pass rate": ['rounds.default.selection={ type = "pass_rate", share = 0.3, samples = 5 }'],
    "files and providers": [
        'data.pool={ type = "file", path = "p", limit = 9, columns = { output = "a" }, answers = "use" }',
        'data.heldout={ type = "file", path = "h", columns = { output = "a" } }',
        *(f"teacher.endpoint={{ {_OPENAI} }}", f"judge.endpoint={{ {_OPENAI} }}"),
        *(
            "teacher.terms=MIT",
            "student.chat_template=t",
            "student.revision=r",
            "student.average=rounds",
            "training.lora={}",
        ),
        *("student.engine.enforce_eager=true", "student.engine.seed=true", "calls.timeout_seconds=9.0"),
        *("training.processes=1", "rounds.default.selection={ type = 'threshold' }", "rounds.default.batch_size=9"),
        *("curriculum.expansion.check_difficulty=true", "run.prompts=p", "calls.store_url=sqlite:///a"),
        *("evaluation.baseline=sft", *_BENCHMARKS),
    ],
    "stand-ins, panel, share": [
        f'judge.panel=[{{ type = "standin", noise = 2.0 }}, {{ {_OPENAI} }}]',
        'judge.verifier={ function = "numeric", folder = "f" }',
        *('student.engine={ type = "replicas", seed = true }', 'rounds.default.selection={ type = "hard_share" }'),
        "rounds.default.objective=prefer",
        "budget={ usd = 1.0, requests = 1, tokens = 1, hours = 1.0, stages = { label = { usd = 1.0, requests = 1, "
        "tokens = 1, hours = 1.0 } } }",
    ],
    "engine of others, random, pointwise": [
        'student.engine={ type = "endpoint", base_url = "http://127.0.0.1:1/v1", api_key_env = "KEY", seed = true }',
        'teacher.endpoint={ type = "vllm", model = "m", revision = "r", identity = "i", chat_template = "t", '
        "enforce_eager = true, seed = true }",
        *(
            'rounds.default.selection={ type = "random", share = 0.5 }',
            "rounds.default.alpha=0.5",
            "judge.mode=pointwise",
            'rounds.default.objective={ type = "on_policy", loss = "forward_kl", first_tokens = 9 }',
        ),
        "data.heldout.dev=1",
    ],
    "judged held-out set, several answers": [
        'data.heldout={ type = "judged", references = "h" }',
        "teacher.answers_per_prompt=3",
    ],
}
"""Configurations that together have every kind; what may be nothing is set."""
_TEXTS = ("{}-b", "{}b", "48h", "http://127.0.0.1:9/v1", "B_KEY", "sqlite:///b", "b")
_OTHERS = (
    True,
    3,
    0.25,
    "b",
    "exact",
    "http://127.0.0.1:9/v1",
    "B_KEY",
    {},
    "natural",
    {"type": "standin", "noise": 9.0},
)


class Place(NamedTuple):
    """A field where it stands in a configuration."""

    path: tuple[Any, ...]
    section: Section
    name: str
    free: bool
    """Whether it, or what it stands in, is marked as free."""

    @property
    def known_as(self) -> tuple[str, ...]:
        """The field, and where it stands: of an endpoint everywhere, since a field may shape one role alone."""
        classes = (each for each in type(self.section).__mro__ if self.name in vars(each).get("__annotations__", ()))
        named = (next(classes).__name__, self.name)
        return named if isinstance(self.section, EndpointConfig) else (".".join(map(str, self.path)), *named)


def load(base: str) -> RunConfig:
    return load_config(ROOT / "tests/golden/keys.toml", BASES[base])


def places_in(section: Section, path: tuple[Any, ...] = (), *, free: bool = False) -> Iterator[Place]:
    for name in type(section).model_fields:
        value, below, is_free = getattr(section, name), (*path, name), free or name in section.with_mark("free")
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
        held = [(below, value), *(((*below, step), each) for step, each in items)]
        sections = [(where, each) for where, each in held if isinstance(each, Section)]
        for where, each in sections:
            yield from places_in(each, where, free=is_free)
        if not sections and name != "type" and value not in ((), {}):
            yield Place(below, section, name, is_free)


def other_values(place: Place) -> Iterator[Any]:
    """Values of all sorts, other than the field's own; most are wrong for it."""
    value, annotation = getattr(place.section, place.name), type(place.section).model_fields[place.name].annotation
    yield from (each for each in types_in(annotation) if isinstance(each, str | int) and not isinstance(each, type))
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value * 2, value / 2, value + 0.01, value - 0.01)
    elif isinstance(value, str):
        yield from (text.format(value) for text in _TEXTS)
    elif isinstance(value, tuple):
        yield from (list(value[:1]), list(value[1:]))
    elif isinstance(value, dict):
        yield from ({name: f"{each}-b" for name, each in value.items()}, "natural")
    if get_origin(annotation) is not Literal:
        yield from _OTHERS
    yield None


def changed(config: RunConfig, place: Place) -> RunConfig | None:
    """The configuration with another valid value in this place."""
    for value in other_values(place):
        table = at = config.model_dump(mode="json")
        for step in place.path[:-1]:
            at = at[step]
        at[place.path[-1]] = value
        try:
            found = RunConfig.model_validate(table)
        except ValidationError:
            continue
        if found != config:
            return found
    return None


class Found(NamedTuple):
    """What another value changed."""

    place: Place
    keys: bool
    config: RunConfig


@cache
def outcomes() -> list[Found]:
    found = []
    for base in BASES:
        config = load(base)
        before = stage_keys_of(config, {})
        for place in places_in(config):
            other = changed(config, place)
            is_set = getattr(place.section, place.name) is not None
            # A file that is named where none was is another ingredient.
            if other is not None and (is_set or not place.free):
                found.append(Found(place, stage_keys_of(other, {}) != before, other))
    return found


def test_every_kind_is_in_a_base() -> None:
    kinds = {
        kind.__name__
        for family in Kind.__subclasses__()
        for kind in family.kinds().values()
        if kind.model_fields.keys() > {"type"}
    }
    seen = {type(place.section).__name__ for base in BASES for place in places_in(load(base))}
    assert sorted(kinds - seen) == [], "add a setting that has it to one of BASES above"


def test_every_field_is_set_to_another_value_somewhere() -> None:
    tried = {each.place.known_as[-2:] for each in outcomes()}
    everywhere = {place.known_as[-2:] for base in BASES for place in places_in(load(base))}
    assert sorted(everywhere - tried) == [], "set it in a base, or add a value that suits it to `other_values`"


def sections_in(section: Section) -> Iterator[Section]:
    """The section and all that stand in it, at any depth."""
    yield section
    for name in type(section).model_fields:
        value = getattr(section, name)
        items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        for each in items:
            if isinstance(each, Section):
                yield from sections_in(each)


def test_every_list_of_sections_is_set_in_a_base() -> None:
    """An empty one would hide all fields of its sections from the tests below."""
    found = {
        (type(section).__name__, name, bool(getattr(section, name)))
        for base in BASES
        for section in sections_in(load(base))
        for name, field in type(section).model_fields.items()
        if isinstance(getattr(section, name), tuple | dict)
        if any(isinstance(each, type) and issubclass(each, Section) for each in types_in(field.annotation))
    }
    unset = [f"{kind}.{name}" for kind, name, is_set in sorted(found) if not is_set and (kind, name, True) not in found]
    assert unset == [], "none of its sections is in a base, so nobody looks at their fields: set it in one of BASES"


def test_a_field_changes_a_key_or_is_free() -> None:
    moved = {each.place.known_as for each in outcomes() if each.keys}
    still = {each.place.known_as for each in outcomes() if not each.place.free} - moved
    assert said(still, "no stage's key has it: mark it in {} as `Free` (it changes no row), or let a stage have it")


def test_a_free_field_changes_no_key() -> None:
    moved = {each.place.known_as for each in outcomes() if each.place.free and each.keys}
    assert said(moved, "marked in {} as `Free`, as if it changed no row, and it changes keys: take the mark away")


def test_what_shapes_answers_is_part_of_an_identity_and_of_a_key() -> None:
    identities = {}
    for place, _, config in outcomes():
        section = place.section
        if isinstance(section, EndpointConfig | StudentEngine):
            other = next(each.section for each in places_in(config) if each.path == place.path)
            differs = identity(section) != identity(other)
            assert not (place.free and differs), f"{place.known_as}: is free, and part of an identity"
            identities[place.known_as] = identities.get(place.known_as, place.free) or differs
    lacking = {known for known, differs in identities.items() if not differs}
    remedy = "it is in no identity of {}, and stored answers would be mixed up: say it there, or mark it as `Free`"
    assert said(lacking, remedy)


def test_product_code_reads_every_field() -> None:
    """A field that only stands in keys would do nothing. What is read is told by name alone."""
    read = set[str]()
    for file in (each for room in ("tapir_core", "tasks", "flows") for each in (ROOT / room).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        read |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        if file.parent.name != "config":  # a name as text, as of a limit that is looked up
            read |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for template in (ROOT / "tapir_core").rglob("*.jinja2"):
        read |= set(re.findall(r"\.(\w+)", template.read_text()))
    unread = {
        (f"{section.__name__}.{name}", section.__name__, name)
        for section in sections_below(RunConfig)
        for name in section.model_fields.keys() - read - {"type"}
    }
    assert said(unread, "nothing reads it: have the code that it is for read it, or take it out of {}")


def test_a_field_that_a_section_got_later_changes_no_key_at_its_default() -> None:
    class Old(Section):
        size: int = 1

    class New(Section):
        size: int = 1
        depth: Later[int] = 2

    assert New().shaping() == Old().shaping() == {"size": 1}
    assert New(depth=3).shaping() == {"size": 1, "depth": 3}


def identity(section: Any) -> Any:
    if isinstance(section, EndpointConfig):
        return [section.answers_as(role) for role in ("teacher", "judge")]
    return section.model_name(Path("checkpoint")), section.identity_suffix


def said(fields: set[tuple[str, ...]], remedy: str) -> bool:
    lines = [f"{known[-2]}.{known[-1]} ({known[0]}): {remedy.format(known[-2])}" for known in sorted(fields)]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    return True
