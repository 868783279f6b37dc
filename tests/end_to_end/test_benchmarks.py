"""All three benchmarks asked of a student on real vLLM, served once, with the stand-in as their judge."""

import subprocess

from tapir_core.paths import BACKBONE
from tapir_core.stages import StageAt
from tests.end_to_end.project import DEADLINE_SECONDS, Project
from tests.harness.processes import REPOSITORY, tapir

SAMPLES = "configs/benchmarks"
BENCHMARKS = {
    "ae": f'questions = "{SAMPLES}/alpaca_eval.json", baseline = "{SAMPLES}/alpaca_eval_baseline.json", '
    'type = "alpaca_eval"',
    "mt": f'questions = "{SAMPLES}/mt_bench_question.jsonl", references = "{SAMPLES}/mt_bench_reference.jsonl", '
    f'baseline = "{SAMPLES}/mt_bench_baseline.jsonl", modes = ["single", "pairwise"], max_tokens = 16, '
    'type = "mt_bench"',
    "vi": f'questions = "{SAMPLES}/vicuna_question.jsonl", baseline = "{SAMPLES}/vicuna_baseline.jsonl", '
    'max_tokens = 16, type = "vicuna"',
}


def test_the_untouched_backbone_is_served_once_for_the_held_out_set_and_all_benchmarks(
    tmp_path, tiny_students, standing_prefect
):
    settings = {f"evaluation.benchmarks.{name}": f"{{ {table} }}" for name, table in BENCHMARKS.items()}
    settings["evaluation.decontamination.max_rouge_l"] = "1.0"
    project = Project(tmp_path, tiny_students[0], settings, prefect_api=standing_prefect.api)
    project.run("asked", "--until", "pool")
    command = tapir("evaluate", str(tmp_path / "asked"), "--round", "backbone", "--benchmark", "ae,mt,vi")
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for words in ("win rate, %", "rating, 1–10", "relative quality, %", "Held-out accuracy"):
        assert words in done.stdout
    run = project.folder("asked")
    for name, asked in (("ae", 20), ("mt", 40), ("vi", 20)):
        answers = run.rows(StageAt("benchmark_answers", BACKBONE, benchmark=name))
        assert answers["response"].drop_nulls().len() == asked
        scores = run.rows(StageAt("benchmark_scores", BACKBONE, benchmark=name)).filter(category="all")
        assert scores["n_failed"].max() == 0
        assert scores["value"].null_count() == 0
    assert (run.storage.read_bytes("logs/student.log").decode().count("Application startup complete")) == 1
