"""Every kind of benchmark that can be configured is asked by somebody, and says what its fields shape."""

import pytest

from tapir_core.config import AskedBenchmark, BenchmarkConfig
from tapir_core.evaluation.benchmark import Benchmark, register, registered

ASKED = [kind for kind in BenchmarkConfig.kinds().values() if issubclass(kind, AskedBenchmark)]


def test_every_kind_that_is_asked_has_its_benchmark() -> None:
    assert registered().keys() == {*ASKED}


@pytest.mark.parametrize("kind", ASKED, ids=lambda kind: kind.__name__)
def test_every_field_shapes_a_stage_of_the_benchmark_or_is_said_to_be_free(kind: type[AskedBenchmark]) -> None:
    marks = ("answers", "replies", "apart", "free")
    items = kind.model_fields.keys() - {name for mark in marks for name in kind.with_mark(mark)}
    assert items <= {"type", "task"}, (
        f"{', '.join(sorted(items))} of {kind.__name__} would make a benchmark's questions anew where it is changed; "
        "mark it as OfAnswers, OfReplies, Apart or Free if it does less, and name it here if it does not"
    )


def test_a_benchmark_that_leaves_something_out_is_told_what() -> None:
    with pytest.raises(TypeError, match=r"benchmark Half does not say: items, judged_by, scores, values; write these"):

        @register(AskedBenchmark)
        class Half(Benchmark[AskedBenchmark]):
            """Nothing is written yet."""
