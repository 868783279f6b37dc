"""Folders say who may know what: the core knows no engine and no orchestrator, arrows run one way."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest

from tapir_core import paths
from tapir_core.stages import STAGES, Asked

ROOT = Path(__file__).parents[2]
HEAVY = ("prefect", "torch", "vllm", "deepspeed", "transformers", "trl")


def modules_of(package: str) -> list[str]:
    return sorted(
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in (ROOT / package).rglob("*.py")
    )


def imported_names(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_the_core_imports_neither_orchestrator_nor_engines():
    script = (
        "import importlib, sys\n"
        f"for name in {modules_of('tapir_core')!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("package", "may_not_know"),
    [("tapir_core", ("tasks", "flows")), ("tasks", ("flows",)), ("tapir_core/curriculum", ("tapir_core.calls",))],
)
def test_arrows_run_one_way(package, may_not_know):
    backwards = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in (ROOT / package).rglob("*.py")
        for name in imported_names(file)
        if any(name == banned or name.startswith(f"{banned}.") for banned in may_not_know)
    ]
    assert backwards == []


REPORTS = "tapir_core.reporting"


def taken_from_reports(file: Path) -> Iterator[tuple[str, Any]]:
    """What a module imports of reports, and what it takes of their modules: name, object."""
    tree, modules = ast.parse(file.read_text()), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == REPORTS:
            modules |= {
                each.asname or each.name: importlib.import_module(f"{REPORTS}.{each.name}") for each in node.names
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{REPORTS}."):
            module = importlib.import_module(node.module or "")
            yield from ((each.name, getattr(module, each.name)) for each in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield f"{node.value.id}.{node.attr}", getattr(modules[node.value.id], node.attr)


def kinds_in(annotation: Any) -> set[Any]:
    return {each for part in get_args(annotation) for each in kinds_in(part)} or {annotation}


def is_shown(function: Any) -> bool:
    """Whether it gives texts, tables and pages, and nothing that a run could go by."""
    kinds = kinds_in(function.__annotations__["return"]) - {NoneType, ...}
    return all(each is str or getattr(each, "__module__", "").startswith(REPORTS) for each in kinds)


def test_flows_and_tasks_take_texts_and_tables_of_reports_and_no_decisions():
    deciding = [
        f"{file.relative_to(ROOT)}: {name}"
        for package in ("tasks", "flows")
        for file in (ROOT / package).rglob("*.py")
        for name, found in taken_from_reports(file)
        if callable(found) and not isinstance(found, type) and not is_shown(found)
    ]
    assert deciding == [], "a report shows: decide in tapir_core/run_state.py, read in tapir_core/summary/"


def test_only_the_projects_own_decorator_makes_prefect_tasks():
    makers = [
        str(file.relative_to(ROOT))
        for package in ("flows", "tasks")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "prefect"
        if {"task", "Task"} & {alias.name for alias in node.names}
    ]
    assert makers == ["tasks/_task.py"]
    flow_makers = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "flows").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "prefect"
        if "flow" in {alias.name for alias in node.names}
    ]
    assert flow_makers == ["flows/project_flow.py"]


def test_commands_import_prefect_only_after_they_have_settled_where_its_files_go():
    modules = ["flows.cli", *modules_of("flows/commands"), *modules_of("flows/prefect_server")]
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print('prefect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_the_list_of_commands_imports_none_of_them():
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from flows.cli import COMMANDS, app\n"
        "shown = CliRunner().invoke(app, ['--help']).output\n"
        "print([name for name in COMMANDS if name not in shown])\n"
        "print([name for name in sys.modules if name.startswith('flows.commands.')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["[]", "[]"]


def test_paths_of_the_run_folder_are_built_in_one_module():
    names = {paths.MANIFEST, paths.RUN_RECORD, paths.RESOLVED_CONFIG, paths.REPORT, paths.JUDGE_REPORT, paths.STORE}
    elsewhere = []
    for package in ("tapir_core", "tasks", "flows"):
        for file in (ROOT / package).rglob("*.py"):
            if file.name == "paths.py":
                continue
            tree = ast.parse(file.read_text())
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and node.value in names and id(node) not in docstrings:
                    elsewhere.append(f"{file.relative_to(ROOT)}: {node.value}")
    assert elsewhere == []


def test_no_module_repeats_its_names_in_a_list():
    listing = [
        str(file.relative_to(ROOT))
        for package in ("tapir_core", "tasks", "flows", "deployments")
        for file in (ROOT / package).rglob("*.py")
        if "\n__all__" in file.read_text()
    ]
    assert listing == [], "the imports of `__init__.py` are a room's door, an underscore says what is private"


def named(call: ast.Call, name: str) -> list[ast.expr]:
    """What a call gives by this keyword."""
    return [each.value for each in call.keywords if each.arg == name]


def test_a_stage_is_named_by_its_declaration_and_not_by_a_text():
    spelt = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for package in ("tapir_core", "tasks", "flows", "deployments", "benchmarks")
        for file in (ROOT / package).rglob("*.py")
        if ROOT / "tapir_core/stages" not in file.parents
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "StageAt"
        if any(isinstance(each, ast.Constant) for each in (*node.args[:1], *named(node, "name")))
    ]
    assert spelt == [], 'write JUDGE.at(1), not StageAt("judge", 1): a stage that is renamed or gone is an import error'


def test_the_machinery_of_stages_knows_none_of_them():
    names = STAGES.keys() - {*get_args(Asked)}
    known = [
        f"{file}: {node.value}"
        for file in ("tapir_core/stages/stage.py", "tapir_core/stages/order.py", "flows/steps.py", "tasks/_task.py")
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert known == [], "declare what is special of a stage as a field of `Stage`"
