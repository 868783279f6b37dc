"""The tables that the curriculum reads and makes, each with its grain. Columns are the run folder's contract."""

import polars as pl

_TEXT = pl.String()
_SCORE = pl.Float64()
_COUNT = pl.Int64()

DIFFICULTY = pl.Schema(
    {
        "instruction_id": _TEXT,
        "task_type": _TEXT,
        "student_score": _SCORE,
        "teacher_score": _SCORE,
        "mfd": _SCORE,
        "orders": _COUNT,
        "order_gap": _SCORE,
    }
)
"""One row a scored instruction and round. ``orders`` counts the orders behind the means."""

SEEDS = pl.Schema({"instruction_id": _TEXT, "task_type": _TEXT, "mfd": _SCORE})
"""One row a seed; the easy part of the pool has the same columns."""

EXAMPLES = pl.Schema(
    {"instruction_id": _TEXT, "instruction": _TEXT, "system": _TEXT, "task_type": _TEXT, "response": _TEXT}
)
"""One row an instruction with a task type and a usable teacher answer: what a mixture can be made of."""

CANDIDATES = pl.Schema(
    {
        "instruction_id": _TEXT,
        "instruction": _TEXT,
        "system": _TEXT,
        "task_type": _TEXT,
        "seed_id": _TEXT,
        "wave": _COUNT,
    }
)
"""One row a request of a wave, in list order. ``task_type`` is the wanted one; of what passed the gates, its own."""

EXPANSION = pl.Schema({**CANDIDATES, "response": _TEXT})
"""One row an accepted new instruction with the teacher's plain answer."""

REJECTED = pl.Schema({**EXPANSION, "gate": _TEXT})
"""One row a rejected candidate and the gate that it failed first."""

REFINEMENT = pl.Schema(
    {
        "instruction_id": _TEXT,
        "task_type": _TEXT,
        "plain": _TEXT,
        "refined": _TEXT,
        "accepted": pl.Boolean(),
        "reason": _TEXT,
    }
)
"""One row an instruction of the hard part."""

MIXTURE = pl.Schema(
    {
        "example_id": _TEXT,
        "instruction_id": _TEXT,
        "messages": pl.List(pl.Struct({"role": _TEXT, "content": _TEXT})),
        "task_type": _TEXT,
        "origin": _TEXT,
        "mfd": _SCORE,
        "refined": pl.Boolean(),
    }
)
"""One row a training example. ``origin`` is seed, expansion or easy; S_0's examples come from the ``pool``."""


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows by instruction: the order in which every draw starts, so that the order of arrival changes nothing."""
    return rows.sort("instruction_id")
