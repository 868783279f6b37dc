"""Loading: every problem at once, in a user's words; overrides; the resolved JSON."""

import json
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest

from tapir_core.config import HardShare, RandomShare, RunConfig, StandinEndpoint, VllmEngine
from tapir_core.config.load import load_config, load_resolved, resolved_json
from tapir_core.errors import ConfigError
from tapir_core.task_types import TARGET_SHARES
from tests.run_config import make_config

SMALLEST = """
[run]
name = "small"
[data.pool]
type = "standin"
[teacher.endpoint]
type = "standin"
[judge.endpoint]
type = "standin"
"""


def load(folder: Path, text: str = SMALLEST, *overrides: str, name: str | None = None) -> RunConfig:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides, name)


def problems(folder: Path, text: str = SMALLEST, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    assert "config.toml" in str(caught.value)
    return caught.value.problems


def test_the_smallest_file_gives_the_recommended_recipe(tmp_path: Path) -> None:
    """One round on the whole pool and new instructions like it, by natural shares, with plain answers (LOG.md, E4)."""
    config = load(tmp_path)
    assert (config.run.rounds, config.round(1).alpha, config.round(1).selection) == (1, 1.0, RandomShare(share=1.0))
    assert (config.curriculum.target_shares, config.curriculum.refine) == ("natural", False)
    assert (config.basic_tuning.examples, config.round(1).examples) == ("auto", "auto")
    assert config.teacher.endpoint == StandinEndpoint()


def test_a_panel_of_judges_is_a_list_of_tables(tmp_path: Path) -> None:
    text = SMALLEST + '[[judge.panel]]\ntype = "standin"\nnoise = 1.5\n[[judge.panel]]\ntype = "openai"\n'
    config = load(tmp_path, text + 'model = "m"\n')
    assert list(config.judge.endpoints) == ["judge.endpoint", "judge.panel.0", "judge.panel.1"]
    assert config.judge.panel[0] == StandinEndpoint(noise=1.5)
    assert load_resolved(resolved_json(config)) == config
    assert [problem.split(":")[0] for problem in problems(tmp_path, text)] == ["judge.panel.1.model"]


def test_all_problems_are_reported_at_once_in_one_line_each(tmp_path: Path) -> None:
    text = SMALLEST + 'on_bad_row = 3\n[training]\nbatch_size = 0\n[curriculum]\nalpha_start = "half"\n[rounds.x]\n'
    found = problems(tmp_path, text, "run.sed=1", "run.name.x=1", "nonsense")
    assert [problem.split(":")[0] for problem in found] == [
        "--set run.name.x=1",
        "--set nonsense",
        "run.sed",
        "judge.endpoint.on_bad_row",
        "curriculum.alpha_start",
        "rounds.x",
        "training.batch_size",
    ]
    assert all("\n" not in problem for problem in found)


def test_a_field_of_what_was_given_in_short_is_shown_as_a_table(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, SMALLEST, "rounds.2.objective=prefer", "rounds.2.objective.margin=2")
    assert """write --set 'rounds.2.objective={ type = "prefer", margin = 2 }'""" in problem


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("run.sed=4", "run.sed: unknown field (from the command line: run.sed); did you mean `seed`? known here: name"),
        ("trainig.precision=bf16", "trainig: unknown field (from the command line: trainig.precision); did you mean"),
        ("training.learning_rate=1", "it belongs to [basic_tuning], [rounds.N]; known here: zero_stage"),
        ("data.pool.path=x", '(from the command line: data.pool.path); it belongs to type = "file"; this table has'),
        ("data.pool.type=standing", 'data.pool.type: value "standing" (from the command line: data.pool.type)'),
        ("data.pool.type=standing", 'did you mean "standin"? write type = "file" or type = "standin"'),
        ("data.pool={rows = 3}", 'data.pool.type: missing; write type = "file" or type = "standin"'),
        ("data.pool={type = 'file'}", "data.pool.path: missing; expected text (Alpaca JSON"),
        (
            "run.rounds=0",
            "run.rounds: value 0 (from the command line: run.rounds): expected integer ≥ 1 and ≤ 49 (R: most",
        ),
        ("run.rounds=2.5", "run.rounds: value 2.5"),
        ("run.rounds=true", "run.rounds: value true"),
        ("run.rounds=many", 'run.rounds: value "many"'),
        ("run.name=a b", 'run.name: value "a b"'),
        ("run.name=7", "run.name: value 7 (from the command line: run.name): expected text"),
        ("run=7", "run: value 7 (from the command line: run): expected table (Name, place"),
        ("training.zero_stage=4", "expected 0 or 1 or 2 or 3 (DeepSpeed's ZeRO stage"),
        ("training.save_minutes=inf", "training.save_minutes: value inf"),
        ("training.lora={rank = 0}", "training.lora.rank: value 0"),
        ("curriculum.alpha_start=1.5", "expected number ≥ 0 and ≤ 1"),
        ("rounds.2.alpha=x", 'rounds.2.alpha: value "x" (from the command line: rounds.2.alpha): expected number ≥ 0'),
        ("rounds.2.selection={type='threshold', threshold='x'}", "rounds.2.selection.threshold: value"),
        ("rounds.0.alpha=0.5", "rounds.0 (from the command line: rounds.0.alpha): is no round; use `default` or"),
        ("curriculum.target_shares={Math = 0.5}", "shares sum to 0.500000, not 1; scale each by 2.000000"),
        ("curriculum.target_shares={Maths = 1.0}", "unknown task type 'Maths'; did you mean 'Math'? the 32 are: Math"),
        ("curriculum.task_types.Refund=", "curriculum.task_types.Refund.definition: value"),
        ('curriculum.task_types.Refund="a<b"', "is no definition; write one line"),
        ('curriculum.task_types={ "a:b" = "c" }', "is no name of a task type; write up to 60 letters"),
        ('curriculum.task_types={ all = "c" }', "'all' has a meaning of its own in reports"),
        ('curriculum.task_types={ Refund = "a", refunds = "b" }', "'Refund' and 'refunds' read alike in a reply"),
        ('curriculum.task_types={ Other = "a" }', "'Other' and 'Others' read alike in a reply"),
        ("curriculum.task_types={}", "curriculum.task_types: value {}"),
        ("curriculum.task_types=papers", 'expected "paper" or "defined"'),
        (
            'curriculum={ task_types = { Refund = "a" }, target_shares = "recipe" }',
            'write "natural", "equal" or a table',
        ),
        (
            'curriculum={ task_types = { Refund = "a" }, target_shares = { Refunds = 1.0 } }',
            "unknown task type 'Refunds'; did you mean 'Refund'? the 2 are: Refund, Others",
        ),
        ("curriculum.target_shares={Math = -1.0}", "curriculum.target_shares.Math: value -1.0"),
        ("curriculum.target_shares=naturel", 'curriculum.target_shares: value "naturel" (from the command line: curri'),
        ("curriculum.target_shares=naturel", 'expected "natural" or "equal" (Task type → share'),
        ("curriculum.target_shares=3", "curriculum.target_shares: value 3"),
        ('judge.orders=["student_first", "student_first"]', "judge.orders: value"),
        ('judge.orders=["student_first", "student_first"]', "names student_first twice"),
        ("judge.orders=[]", "judge.orders: value []"),
        ('evaluation.each_round=["vi", "vi"]', "evaluation.each_round: value"),
        ('evaluation.each_round=["vi", "vi"]', "names vi twice; each is named once"),
        (
            "evaluation.benchmarks.mt={type = 'mt_bench', questions = 'q', modes = ['pairwise']}",
            "evaluation.benchmarks.mt.modes: unknown field",
        ),
        ("judge.orders=student_first", 'expected list of "teacher_first" or "student_first"'),
        ('judge.orders=["first"]', 'judge.orders.0: value "first"'),
        ("evaluation.benchmarks.heldout={questions = 'q'}", "is no name for a benchmark; use a small letter"),
        ("evaluation.benchmarks.AE={questions = 'q'}", "evaluation.benchmarks.AE"),
        ("evaluation.benchmarks.ae.question=q", "did you mean `questions`?"),
        ("evaluation.decontamination.max_rouge_l=0.7", "expected number ≥ 0.8 and ≤ 1"),
        ("calls.store_url=store.sqlite", "is no SQLAlchemy URL"),
    ],
)
def test_a_wrong_value_names_field_value_and_remedy(tmp_path: Path, override: str, problem: str) -> None:
    found = "\n".join(problems(tmp_path, SMALLEST, override))
    assert problem in found


OPENAI = """
[run]
name = "small"
[data.pool]
type = "standin"
[teacher.endpoint]
type = "openai"
model = "m"
identity = "i"
[judge.endpoint]
type = "standin"
"""


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("teacher.endpoint.base_url=api.openai.com", 'is no web address; write it as "http://host:port/v1"'),
        ("teacher.endpoint.base_url=http://localhost:8000v1", "base_url: "),
        ("teacher.endpoint.base_url=http://localhost:99999/v1", "base_url: "),
        ("teacher.endpoint.base_url=http://localhost:0/v1", "is no web address"),
        ("teacher.endpoint.base_url=https://h/v1/chat/completions", "write the address up to and with `/v1`"),
        ("teacher.answering.temperature=hot", 'temperature: value "hot" (from the command line'),
        ("teacher.answering.temperature=-1", "expected number ≥ 0"),
        ("teacher.endpoint.headers={Authorization='sk-hush'}", "name the key's variable in api_key_env"),
        ("teacher.endpoint.key_header='api key'", "is no name of an HTTP header"),
        ("teacher.endpoint.model=", "expected text (not empty)"),
        ("teacher.endpoint.api_key=sk-hush", "did you mean `api_key_env`?"),
        ("teacher.endpoint.api_key_env=sk-hush", "is no name of an environment variable"),
        ("teacher.endpoint.base_url=https://me:hush@h/v1", "carries a user, a password or a query"),
        ("teacher.endpoint.base_url=https://h/v1?key=hush", "carries a user, a password or a query"),
        ("calls.store_url=postgresql://me:hush@h/d", "carries a password"),
        ("calls.store_url=postgresql://h/d?user=me&password=hush", "carries a password"),
    ],
)
def test_an_endpoint_is_checked_and_a_secret_is_neither_taken_nor_repeated(
    tmp_path: Path, override: str, problem: str
) -> None:
    found = "\n".join(problems(tmp_path, OPENAI, override))
    assert problem in found
    assert "hush" not in found


def test_a_default_that_rests_on_a_wrong_field_is_no_problem_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "pool.toml"
    file.write_text("data.pool = { rows = 3 }")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert [line for line in str(caught.value).splitlines() if "data." in line] == [
        '  - data.pool.type: missing; write type = "file" or type = "standin"'
    ]


def test_an_empty_text_means_nothing_where_nothing_is_allowed(tmp_path: Path) -> None:
    config = load(tmp_path, OPENAI, 'teacher.endpoint.api_key_env=""', "data.heldout=", "training.lora=")
    assert config.teacher.endpoint.model_dump()["api_key_env"] is None
    assert config.data.heldout is None
    assert config.training.lora is None


def test_a_table_keeps_what_it_does_not_set_of_its_own_default(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST, "teacher.expanding.max_tokens=7", "student.engine.concurrency=3")
    assert (config.teacher.expanding.temperature, config.teacher.expanding.max_tokens) == (1.0, 7)
    assert config.student.engine == VllmEngine(concurrency=3)


def test_overrides_are_toml_values_or_else_text_and_the_last_one_wins(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        SMALLEST,
        "run.rounds=4",
        "run.rounds=5",
        "run.root=a=b",
        'judge.orders=["student_first"]',
        "student.revision=2026-10-01",
        "rounds.2.alpha=0.25",
        "rounds.default.selection={type = 'hard_share', share = 0.2}",
    )
    assert (config.run.rounds, config.run.root, config.judge.orders) == (5, "a=b", ("student_first",))
    assert config.student.revision == "2026-10-01"
    assert (config.round(1).alpha, config.round(2).alpha) == (1.0, 0.25)
    assert config.round(1).selection == HardShare(share=0.2)


def test_the_name_replaces_the_files_and_the_overrides(tmp_path: Path) -> None:
    assert load(tmp_path, SMALLEST, "run.name=b", name="c").run.name == "c"


def test_a_round_takes_default_then_its_own_entry_and_past_the_last_entry_the_last(tmp_path: Path) -> None:
    text = SMALLEST + "[rounds.default]\nexamples = 10\nepochs = 1\n[rounds.2]\nexamples = 20\n"
    config = load(tmp_path, text)
    assert [config.round(number).examples for number in (1, 2, 3, 9)] == [10, 20, 20, 20]
    assert config.round(3).epochs == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[run\nname = 1", "is no TOML in UTF-8: .*line 1"),
        (b'[run]\nname = "caf\xe9"', "is no TOML in UTF-8: 'utf-8' codec can't decode byte 0xe9"),
    ],
)
def test_a_file_that_is_no_toml_is_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_missing_file_and_a_folder_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration"):
        load_config(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_the_resolved_json_gives_the_same_run_back(tmp_path: Path) -> None:
    text = (
        SMALLEST + '[rounds.default]\nexamples = 10\n[rounds.2]\nselection = {type = "hard_share"}\n[training.lora]\n'
    )
    config = load(tmp_path, text, 'judge.orders=["student_first"]')
    again = load_resolved(resolved_json(config).encode())
    assert again == config
    assert resolved_json(again) == resolved_json(config)
    assert [again.round(number) for number in (1, 2, 3)] == [config.round(number) for number in (1, 2, 3)]


def test_the_resolved_json_writes_every_default_out_but_keeps_round_entries_partial(tmp_path: Path) -> None:
    table = json.loads(resolved_json(load(tmp_path, SMALLEST + "[rounds.default]\nexamples = 10\n")))
    assert table["training"]["zero_stage"] == 2
    assert table["rounds"] == {"default": {"examples": 10}}


def test_the_order_of_a_file_does_not_change_the_resolved_json(tmp_path: Path) -> None:
    shares = ["Math = 0.5", '"Code Debug" = 0.5']
    texts = [
        resolved_json(load(tmp_path, SMALLEST + "[curriculum.target_shares]\n" + "\n".join(order)))
        for order in (shares, shares[::-1])
    ]
    assert texts[0] == texts[1]


OWN = """
[curriculum.task_types]
Refund = "asks for money back"
Delivery = { definition = "asks where a parcel is", refinement = "steps" }
"""


def test_own_task_types_have_others_beside_them_and_natural_shares(tmp_path: Path) -> None:
    curriculum = load(tmp_path, SMALLEST + OWN, "curriculum.refine=false").curriculum
    assert curriculum.types.names == ("Delivery", "Refund", "Others")
    assert [curriculum.types.family_of(name) for name in curriculum.types.names] == ["steps", "prose", "prose"]
    assert curriculum.types.described("Refund") == "Refund: asks for money back"
    assert curriculum.target_shares == "natural"
    defined = load(tmp_path, SMALLEST + OWN + 'Others = "all else"').curriculum
    assert defined.types.described("Others") == "Others: all else"


def test_task_types_of_a_file_stand_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "types.toml").write_text(OWN)
    named = load(tmp_path, SMALLEST, f"curriculum.task_types={tmp_path / 'types.toml'}")
    assert named == load(tmp_path, SMALLEST + OWN)
    assert "types.toml" not in resolved_json(named)
    (tmp_path / "types.toml").write_text("a = 1")
    wrong = problems(tmp_path, SMALLEST, f"curriculum.task_types={tmp_path / 'types.toml'}")
    assert "has no table [curriculum.task_types]" in "\n".join(wrong)
    assert "cannot be read: No such file" in "\n".join(problems(tmp_path, SMALLEST, "curriculum.task_types=no.toml"))


def test_own_task_types_are_read_back_in_their_order(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST + OWN)
    again = load_resolved(resolved_json(config))
    assert again == config
    assert again.curriculum.types.names == config.curriculum.types.names


def test_the_recipe_is_a_table_for_the_papers_task_types(tmp_path: Path) -> None:
    recipe = "curriculum.target_shares=recipe"
    plain, defined = (
        load(tmp_path, SMALLEST, recipe, f"curriculum.task_types={each}") for each in ("paper", "defined")
    )
    assert plain.curriculum.target_shares == defined.curriculum.target_shares == TARGET_SHARES


def test_a_damaged_or_foreign_resolved_json_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="is no JSON"):
        load_resolved(b"{")
    with pytest.raises(ConfigError, match="run: missing"):
        load_resolved("{}")
    with pytest.raises(ConfigError, match=r"value \[\]: expected table"):
        load_resolved("[]")


def test_what_a_development_version_resolved_is_read(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST + "[calls]\nconcurrency = 7\n")
    table = json.loads(resolved_json(config)) | {"version": 3}
    del table["judge"]["replies"]
    assert load_resolved(json.dumps(table)) == config


def test_mt_bench_of_a_development_version_is_read_where_it_rated_single_answers(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST + "[evaluation.benchmarks.mt]\ntype = 'mt_bench'\nquestions = 'q'\n")
    table = json.loads(resolved_json(config)) | {"version": 3}
    before = table["evaluation"]["benchmarks"]["mt"] | {"modes": ["single"], "baseline": None}
    table["evaluation"]["benchmarks"]["mt"] = before
    assert load_resolved(json.dumps(table)) == config
    table["evaluation"]["benchmarks"]["mt"] = before | {"modes": ["pairwise"], "baseline": "b"}
    with pytest.raises(ConfigError, match=r"evaluation\.benchmarks\.mt\.modes: unknown field"):
        load_resolved(json.dumps(table))


def test_a_configuration_of_a_newer_tapir_is_refused_with_the_field_and_the_remedy(tmp_path: Path) -> None:
    table = json.loads(resolved_json(load(tmp_path, SMALLEST)))
    table["calls"]["cleverness"] = 3
    with pytest.raises(ConfigError, match=r"a newer version of tapir wrote it(.|\n)*calls\.cleverness: unknown field"):
        load_resolved(json.dumps(table))
    del table["calls"]["cleverness"]
    with pytest.raises(ConfigError, match=r"go on with the version that wrote it(.|\n)*version: value 99: .* up to 4"):
        load_resolved(json.dumps({**table, "version": 99}))


ODD_VALUES = [None, True, 0, -1, 1.5, "", "x", [], [1], {}, {"x": 1}, {"type": "x"}]


def paths_of(table: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in table.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from paths_of(value, (*above, name))


def test_an_odd_value_anywhere_is_a_list_of_problems_or_a_configuration_that_survives_its_json(tmp_path: Path) -> None:
    whole = load(
        tmp_path,
        OPENAI + '[rounds.2]\nselection = {type = "hard_share"}\n[training.lora]\n[data.heldout]\ntype = "standin"\n',
    )
    table = json.loads(resolved_json(whole))
    for path in paths_of(table):
        for value in ODD_VALUES:
            changed = json.loads(json.dumps(table))
            reduce(getitem, path[:-1], changed)[path[-1]] = value
            try:
                config = load_resolved(json.dumps(changed))
            except ConfigError as error:
                named = error.problems[0].split(":")[0]
                assert ".".join(path).startswith(named) or named.startswith(".".join(path)), (path, value, named)
            else:
                assert load_resolved(resolved_json(config)) == config


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [2e-5, 2e-5]),
        ({"training": {"lora": {}}}, [2e-4, 2e-4]),
        ({"training": {"lora": {}}, "rounds": {"default": {"learning_rate": 1e-4}}}, [2e-4, 1e-4]),
        ({"basic_tuning": {"learning_rate": 3e-5}}, [3e-5, 2e-5]),
    ],
)
def test_adapters_learn_at_ten_times_the_rate_unless_one_is_set(settings: dict, rates: list[float]) -> None:
    bare = {"basic_tuning": {}, "rounds": {"default": {}}}
    config = make_config("runs", **bare | settings)
    assert [config.learning_rate(number) for number in (0, 1)] == rates
