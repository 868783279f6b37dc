from tapir_core.judging.agreement import NO_TASK_TYPE, count_unscored_verdicts
from tests.builders import make_labels, make_verdict, make_verdicts


def test_unscored_verdicts_are_counted_by_reason_and_by_task_type() -> None:
    verdicts = make_verdicts(
        make_verdict("a", "teacher_first", reason="no verdict"),
        make_verdict("a", "student_first", reason="refused"),
        make_verdict("b", "teacher_first", reason="refused"),
        make_verdict("b", "student_first"),
        make_verdict("c"),
        make_verdict("stranger", reason=""),
    )
    found = count_unscored_verdicts(verdicts, make_labels({"a": "Law", "b": "Math", "c": "Math"}))
    assert found.share.value == 4 / 6
    assert list(found.reasons.items()) == [("refused", 2), ("no reason given", 1), ("no verdict", 1)]
    shares = {name: (each.value, each.n) for name, each in found.task_types.items()}
    assert list(shares.items()) == [("Law", (1.0, 2)), (NO_TASK_TYPE, (1.0, 1)), ("Math", (1 / 3, 3))]


def test_a_whole_round_names_its_task_types_and_no_reason() -> None:
    found = count_unscored_verdicts(make_verdicts(make_verdict("a")), make_labels({"a": "Law"}))
    assert (found.share.value, found.reasons, found.task_types["Law"].value) == (0.0, {}, 0.0)


def test_no_verdict_at_all_has_no_share() -> None:
    found = count_unscored_verdicts(make_verdicts(), make_labels({}))
    assert (found.share.value, found.share.note) == (None, "nothing to measure")
