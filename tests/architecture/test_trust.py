"""What we load and keep cannot run code: no pickle, no code that a checkpoint brings, results as JSON."""

import ast
import importlib
import pkgutil
from pathlib import Path

import prefect

import flows
import tasks

ROOT = Path(__file__).parents[2]
PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
SOURCES = [path for package in ("tapir_core", "tasks", "flows", "docker") for path in (ROOT / package).rglob("*.py")]


def calls(tree: ast.AST, method: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
    ]


def imported(tree: ast.AST) -> set[str]:
    names = [each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def test_every_flow_and_task_keeps_its_result_as_json():
    found = {}
    for package in (flows, tasks):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for each in vars(importlib.import_module(module.name)).values():
                if isinstance(each, prefect.Flow | prefect.Task):
                    found[f"{module.name}.{each.name}"] = (each.persist_result, each.result_serializer)
    assert len(found) > 20
    assert {name: kept for name, (_, kept) in found.items() if kept != "json"} == {}
    # A child that begins anew with each start of its parent keeps none, or Prefect would give that one back.
    assert [name for name, (is_kept, _) in found.items() if not is_kept] == ["flows.distill.round"]


def test_nothing_of_ours_reads_or_writes_pickles():
    assert len(SOURCES) > 100
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        assert not imported(tree) & PICKLES, path
        loads = [call for call in calls(tree, "load") if ast.unparse(call.func) == "torch.load"]
        assert loads == [], path


def test_every_load_of_a_checkpoint_refuses_its_code_and_its_pickled_weights():
    loads = 0
    for path in SOURCES:
        text = path.read_text()
        assert "trust_remote_code=True" not in text, path
        assert "--trust-remote-code" not in text, path
        for call in calls(ast.parse(text), "from_pretrained"):
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            # A GGUF file and an adapter that we made are read by code that knows no other kind.
            if "gguf_file" in given or ast.unparse(call.func) == "PeftModel.from_pretrained":
                continue
            loads += 1
            assert given.get("trust_remote_code") == "False", f"{path}: {ast.unparse(call)}"
            if "Model" in ast.unparse(call.func):
                assert given.get("use_safetensors") == "True", f"{path}: {ast.unparse(call)}"
    assert loads >= 2
