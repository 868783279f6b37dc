"""IFEval's checker in lm-evaluation-harness on the answers of a student on real vLLM, to the sample questions."""

import subprocess

import pytest

from tapir_core.paths import BACKBONE
from tapir_core.stages import StageAt
from tests.end_to_end.project import DEADLINE_SECONDS, Project
from tests.harness.processes import REPOSITORY, tapir
from tests.students import needs_harness

pytestmark = [pytest.mark.lm_eval, needs_harness]

IFEVAL = (
    '{ type = "lm_eval", task = "ifeval", questions = "configs/benchmarks/ifeval.jsonl", '
    "answering = { max_tokens = 32 } }"
)


def test_the_untouched_backbone_is_marked_by_the_harness(tmp_path, tiny_students, standing_prefect):
    settings = {"evaluation.benchmarks.ifeval": IFEVAL}
    project = Project(tmp_path, tiny_students[0], settings, prefect_api=standing_prefect.api)
    project.run("asked", "--until", "pool")
    command = tapir("evaluate", str(tmp_path / "asked"), "--round", "backbone", "--benchmark", "ifeval")
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "prompt_level_strict_acc, %" in done.stdout
    run = project.folder("asked")
    scores = run.rows(StageAt("benchmark_scores", BACKBONE, benchmark="ifeval"))
    assert scores["metric"].to_list() == [
        f"{level}_level_{how}_acc" for how in ("strict", "loose") for level in ("prompt", "inst")
    ]
    assert scores["n"].to_list() == [20] * 4
    assert ["23 marks" in note for note in scores["note"]] == [False, True, False, True]
    assert scores["n_failed"].max() == 0
    assert scores["value"].is_between(0, 100).all()
    assert scores["judge"].unique().to_list() == ["lm-evaluation-harness 0.4.13"]
    assert scores["prompt_version"].unique().to_list() == ["ifeval 4.0 (its own sampling: temperature 0, 1280 tokens)"]
