"""The columns of each stage's rows: the contract of the run folder (docs/run-folder.md)."""

__all__ = ["COLUMNS"]

_ANSWER = ("instruction_id", "response", "finish_reason", "prompt_tokens", "completion_tokens")
_CANDIDATE = ("instruction_id", "instruction", "system", "task_type", "seed_id", "wave")
_GATED = (*_CANDIDATE, "response", "gate")

COLUMNS: dict[str, tuple[str, ...]] = {
    "heldout": ("instruction_id", "instruction", "system", "task_type", "reference", "split"),
    "questions": ("benchmark", "question_id", "turn", "question"),
    "contaminated": ("instruction_id", "instruction", "benchmark", "question_id", "question", "rule", "similarity"),
    "pool": ("instruction_id", "instruction", "system", "source", "reference"),
    "label": ("instruction_id", "task_type"),
    "teach": _ANSWER,
    "answer_heldout": _ANSWER,
    "evaluate": ("benchmark", "split", "category", "metric", "value", "stderr", "n"),
    "answer": _ANSWER,
    "judge": ("instruction_id", "order", "student_score", "teacher_score", "status", "reason", "raw", "judge"),
    "difficulty": ("instruction_id", "task_type", "student_score", "teacher_score", "mfd", "orders", "order_gap"),
    "select": ("instruction_id", "task_type", "mfd"),
    "wave_requests": ("task_type", "seed_id", "sample_index"),
    "wave_candidates": _CANDIDATE,
    "wave_screened": _GATED,
    "wave_examined": ("instruction_id", "task_type", "response", "finish_reason", "mfd"),
    "wave_gated": _GATED,
    "expansion_rejected": _GATED,
    "expand": (*_CANDIDATE, "response"),
    "refine": ("instruction_id", "task_type", "plain", "refined", "accepted", "reason"),
    "mix": ("example_id", "instruction_id", "messages", "task_type", "origin", "mfd", "refined"),
    "train": (),
}
"""Stage → columns, in their order; a checkpoint has none."""
