from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.config import RunConfig
from tapir_core.config.load import load_config
from tapir_core.estimate.run import CALLS
from tapir_core.estimate.workload import Pool, Work, workload
from tapir_core.paths import AVERAGE
from tapir_core.stages import REFINE, STAGES, StageAt
from tapir_core.standin.families import FAMILIES, NATURAL_SHARES
from tests.run_config import make_config

MODEL = {"type": "openai", "model": "m", "identity": "i"}


def works(pool: Pool | None = None, config: RunConfig | None = None, **sections: Any) -> list[Work]:
    return list(workload(config or make_config("runs", **sections), pool or Pool(240, 120), {}))


def only(found: Sequence[Work], stage: str, role: str | None = None, round_number: int | None = None) -> list[Work]:
    return [
        each
        for each in found
        if each.stage == stage
        and (role is None or each.role == role)
        and (round_number is None or each.round == round_number)
    ]


def needed(found: Sequence[Work]) -> float:
    return sum(each.needed for each in found)


def paid(found: Sequence[Work]) -> float:
    return sum(each.paid for each in found)


@given(st.integers(1, 5000), st.integers(0, 500), st.sampled_from([MODEL, {"type": "standin"}]))
def test_nothing_is_paid_that_is_not_needed(rows: int, stored: int, teacher: dict[str, str]) -> None:
    pool = Pool(rows, 10, stored_labels=min(rows, stored), stored_answers=min(rows, stored))
    for each in works(pool, teacher={"endpoint": teacher}):
        assert 0 <= each.paid <= each.needed + 1e-6


def test_labels_and_plain_answers_are_one_a_row_and_stored_ones_are_not_paid() -> None:
    found = works(Pool(240, 0, stored_labels=40, stored_answers=100))
    assert (needed(only(found, "label")), paid(only(found, "label"))) == (240, 200)
    assert (needed(only(found, "teach")), paid(only(found, "teach"))) == (240, 140)


def test_only_usable_instructions_go_into_the_rounds() -> None:
    found = works(Pool(240, 0, usable_share=0.5))
    assert needed(only(found, "teach")) == 240
    assert needed(only(found, "answer", round_number=1)) == 120


def test_every_student_answers_the_held_out_set_and_the_backbone_too() -> None:
    assert [each.round for each in only(works(), "evaluate")] == [-1, 0, 1, 2]
    assert needed(only(works(), "evaluate")) == 4 * 120
    assert needed(only(works(Pool(240, 0)), "evaluate")) == 0


def test_of_the_teachers_own_answers_no_more_are_held_out_than_it_gives() -> None:
    heldout = {"type": "judged", "answers": "teacher"}
    data = {"pool": {"type": "file", "path": "p", "answers": "use"}, "heldout": heldout}
    own, all_asked = (works(Pool(2000, 0, usable_share=1.0, own_answers=given), data=data) for given in (1960, 0))
    assert (needed(only(own, "evaluate", round_number=0)), needed(only(all_asked, "evaluate", round_number=0))) == (
        40,
        400,
    )


def test_each_order_is_a_verdict() -> None:
    both = works(judge={"endpoint": {"type": "standin"}})
    one = works(judge={"endpoint": {"type": "standin"}, "orders": ["teacher_first"]})
    assert needed(only(both, "judge", round_number=1)) == 2 * 240
    assert needed(only(one, "judge", round_number=1)) == 240


def test_pointwise_the_teacher_is_scored_once() -> None:
    found = works(judge={"endpoint": {"type": "standin"}, "mode": "pointwise"})
    first, second = only(found, "judge", round_number=1)[0], only(found, "judge", round_number=2)[0]
    assert first.paid == pytest.approx(2 * 240, rel=0.01)
    new = second.needed / 2 - 240
    assert second.paid == pytest.approx(240 + 2 * new, rel=0.01)


def test_a_pool_with_every_wanted_task_type_in_plenty_needs_no_expansion() -> None:
    config = make_config("runs")
    pool = Pool(20_000, natural_shares=config.curriculum.target_shares)
    assert needed(only(works(pool, config), "expand")) == 0


def test_new_instructions_are_asked_labelled_and_answered_and_join_the_pool() -> None:
    found = works(Pool(240, natural_shares={"Math": 1.0}))
    asked = needed(only(found, "expand", "expand", 1))
    assert asked > 0
    assert asked >= needed(only(found, "expand", "label", 1)) >= needed(only(found, "expand", "teach", 1)) > 0
    assert needed(only(found, "answer", round_number=2)) > needed(only(found, "answer", round_number=1))


def test_switched_off_parts_take_nothing() -> None:
    target = make_config("runs").curriculum.target_shares
    found = works(curriculum={"target_shares": target, "refine": False, "expansion": {"max_waves": 0}})
    assert needed(only(found, "expand")) == 0
    assert needed(only(found, "refine")) == 0


def test_the_difficulty_check_asks_student_and_judge_for_every_new_instruction() -> None:
    curriculum = {
        "target_shares": make_config("runs").curriculum.target_shares,
        "expansion": {"check_difficulty": True},
    }
    found = works(Pool(240, natural_shares={"Math": 1.0}), curriculum=curriculum)
    answers = needed(only(found, "expand", "answer", 1))
    assert answers > 0
    assert needed(only(found, "expand", "judge", 1)) == pytest.approx(2 * answers)


def test_a_round_that_draws_at_random_asks_no_student_and_no_judge() -> None:
    curriculum = {
        "target_shares": make_config("runs").curriculum.target_shares,
        "expansion": {"check_difficulty": True},
        "refine": True,
    }
    at_random = {"default": {"examples": 96, "selection": {"type": "random", "share": 0.3}}, "2": {}}
    rounds = {**at_random, "2": {"selection": {"type": "hard_share", "share": 0.3}}}
    found = works(Pool(240, natural_shares={"Math": 1.0}), curriculum=curriculum, rounds=rounds)
    assert {each.role for each in found if each.round == 1} == {"expand", "label", "teach", "refine", "answer", None}
    assert {each.stage for each in only(found, "answer", "answer")} == {"answer"}
    assert [each.round for each in found if each.role == "answer" and each.stage != "evaluate"] == [2, 2]
    assert [each.round for each in found if each.role == "judge"] == [2, 2]
    judged = only(found, "judge", round_number=2)[0]
    assert judged.paid == pytest.approx(judged.needed, rel=0.05), "no round judged any of it before"


@pytest.mark.parametrize("known", [{"Math": 0.9, "Law": 0.1}, None])
def test_natural_shares_want_what_the_pool_has_and_so_little_expansion(known: dict[str, float] | None) -> None:
    pool = Pool(5000, natural_shares=known)
    wide = {"selection": {"type": "hard_share", "share": 0.9}, "examples": 96}
    natural = works(pool, rounds={"default": wide}, curriculum={"refine": True})
    table = works(pool, rounds={"default": wide}, curriculum={"target_shares": {"Law": 0.5, "Art": 0.5}})
    assert needed(only(natural, "expand")) == 0
    if known is not None:
        assert needed(only(table, "expand")) > 0
    assert needed(only(natural, "refine")) > 0


def test_all_instructions_as_seeds_lack_only_what_the_pool_lacks() -> None:
    """The recommended recipe: a task type cannot have fewer seeds than instructions, however hard its own are."""
    whole = {"selection": {"type": "random", "share": 1.0}, "alpha": 1.0, "examples": 512}
    for height, new in ((128, 384), (400, 112), (512, 0), (5000, 0)):
        config = make_config("runs", rounds={"default": whole}, curriculum={"target_shares": "natural"})
        found = works(Pool(height, natural_shares={"Math": 0.7, "Law": 0.3}), config)
        assert new <= needed(only(found, "expand", "expand", 1)) <= 1.05 * new


def test_without_rejudging_only_the_first_round_is_judged_and_its_seeds_are_all_there_are() -> None:
    target = make_config("runs").curriculum.target_shares
    found = works(curriculum={"target_shares": target, "rejudge": False})
    assert [each.round for each in found if each.role == "judge"] == [1]
    assert [each.round for each in only(found, "answer")] == [1]
    wide = {"selection": {"type": "hard_share", "share": 0.5}, "examples": 5000, "alpha": 0.0}
    steps = works(rounds={"default": wide}, curriculum={"target_shares": target, "rejudge": False})
    assert [each.examples for each in only(steps, "train")[1:]] == [240, 240]


def test_a_mixture_drawn_at_random_from_the_pool_asks_nobody() -> None:
    at_random = {"default": {"examples": 96, "alpha": 0.0, "selection": {"type": "random", "share": 0.0}}}
    found = works(Pool(240, natural_shares={"Math": 1.0}), rounds=at_random)
    assert all(
        each.needed == 0 for each in found if each.round and each.round > 0 and each.role and each.stage != "evaluate"
    )
    assert [each.examples for each in only(found, "train", round_number=1)] == [2 * 96]


def test_training_takes_the_steps_of_its_examples_and_epochs() -> None:
    found = works(
        Pool(1000, natural_shares=make_config("runs").curriculum.target_shares),
        basic_tuning={"examples": 96, "epochs": 1.0},
        rounds={"default": {"examples": 320, "epochs": 2.0, "selection": {"type": "hard_share", "share": 0.3}}},
        training={"batch_size": 16},
    )
    assert [each.steps for each in only(found, "train")][:2] == [6, 40]


def test_a_round_is_no_larger_than_its_easy_rows_allow() -> None:
    rounds = {"default": {"examples": 1000, "alpha": 0.4, "selection": {"type": "hard_share", "share": 0.3}}}
    sizes = [each.size for each in only(works(rounds=rounds), "train") if each.size]
    assert [each.examples < each.asked == 1000 for each in sizes] == [True, True]
    assert all(abs(each.hard - 0.4 * each.examples) <= 1 for each in sizes)


def test_a_round_may_have_a_batch_size_of_its_own() -> None:
    found = works(
        Pool(1000, natural_shares=make_config("runs").curriculum.target_shares),
        basic_tuning={"examples": 96, "epochs": 1.0},
        rounds={"default": {"examples": 320, "selection": {"type": "hard_share"}}, "2": {"batch_size": 37}},
        training={"batch_size": 16},
    )
    assert [each.steps for each in only(found, "train")] == [6, 40, 18]


def test_a_stage_without_a_count_of_its_own_asks_for_every_instruction_of_its_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(STAGES, "again", replace(REFINE, name="again"))
    monkeypatch.setattr("tapir_core.stages.plan", lambda _: [StageAt("again", 1)])
    [again] = works()
    assert (again.role, again.round, again.needed, again.paid) == ("refine", 1, 240, 240)


def test_the_quickstart_asks_what_a_finished_run_of_it_asked() -> None:
    # The figures are those of its manifests, the rounds of a stage together.
    config = load_config("configs/quickstart.toml")
    shares: Counter[str] = Counter()
    for family, share in NATURAL_SHARES.items():
        shares[FAMILIES[family].task_type] += share  # type: ignore[assignment]  # shares add up as counts do
    pool = Pool(600, 360, natural_shares=shares)
    found = works(pool, config)
    for stage, asked in {
        "label": 600,
        "teach": 600,
        "answer": 1278,
        "expand": 3 * 78 + 148 + 2 * 147,
        "refine": 160 + 179,
        "evaluate": 4 * 360,
    }.items():
        assert paid(only(found, stage)) == pytest.approx(asked, rel=0.2), stage
    # Short greedy answers that stayed the same were judged once.
    assert CALLS[0] * paid(only(found, "judge")) <= 1030 + 692 <= paid(only(found, "judge"))
    assert sum(each.steps for each in only(found, "train")) == 6 + 20 + 20


def test_a_judged_held_out_set_is_answered_and_judged_after_each_round_and_leaves_the_pool() -> None:
    judged = {"pool": {"type": "standin", "rows": 240}, "heldout": {"type": "judged"}}
    found, without = (works(Pool(240, 0), data={**judged, **more}) for more in ({}, {"heldout": None}))
    students, held_out, orders = 4, 48, 2
    assert needed(only(found, "evaluate")) == students * held_out
    verdicts = only(found, "judge_heldout")
    assert len(verdicts) == students
    assert sum(each.needed for each in verdicts) == pytest.approx(students * held_out * orders)
    assert {each.paid for each in verdicts} == {each.needed for each in verdicts} == {held_out * orders}
    assert not only(without, "judge_heldout")
    before, after = (needed(only(each, "answer", round_number=1)) for each in (without, found))
    assert before - after == held_out
    assert needed(only(found, "teach")) == needed(only(without, "teach")), "their answers are the pool's own"


NEW_ARE_MANY = Pool(240, natural_shares={"Math": 1.0})
CHECKED = {"target_shares": make_config("runs").curriculum.target_shares, "expansion": {"check_difficulty": True}}


def verified(**more: Any) -> RunConfig:
    judge = {"endpoint": {"type": "standin"}, "verifier": {"function": "exact", **more}}
    return make_config("runs", judge=judge, curriculum=CHECKED)


def judged(config: RunConfig, references: int) -> dict[tuple[str, int], float]:
    """Stage and round → verdicts of the judge."""
    found = works(replace(NEW_ARE_MANY, references=references), config)
    return {(each.stage, each.round or 0): each.needed for each in found if each.role == "judge"}


def test_a_verifier_scores_what_has_a_reference_which_new_instructions_have_not() -> None:
    none, some = judged(verified(), 0), judged(verified(), 60)
    assert none == judged(make_config("runs", curriculum=CHECKED), 240)
    assert none == judged(verified(uses=["filter"]), 240)
    assert some["judge", 1] == pytest.approx(0.75 * none["judge", 1])
    assert judged(verified(), 240)["judge", 1] == 0
    assert some["expand", 1] == none["expand", 1]
    assert {*judged(verified(only=True), 0).values()} == {0}


def test_a_server_starts_for_each_student_that_is_asked_and_each_training_starts_once() -> None:
    """The backbone is scored; S_0 is scored and then answers its round's pool; so is S_1; S_2 is only scored."""
    assert starts(works()) == [
        ("evaluate", -1),
        ("train", 0),
        ("evaluate", 0),
        ("train", 1),
        ("evaluate", 1),
        ("train", 2),
        ("evaluate", 2),
    ]
    elsewhere = {"engine": {"type": "endpoint", "base_url": "http://127.0.0.1:8000/v1"}}
    assert {stage for stage, _ in starts(works(student=elsewhere))} == {"train"}


def test_an_average_is_one_more_student_to_serve_and_score_and_none_to_train() -> None:
    plain, averaged = works(), works(student={"average": "rounds"})
    assert averaged[: len(plain)] == plain
    [scored] = averaged[len(plain) :]
    assert (scored.stage, scored.round, scored.role, scored.starts) == ("evaluate", AVERAGE, "answer", 1)
    assert scored.needed == plain[-1].needed
    assert not scored.is_open


def test_a_teacher_that_the_run_serves_starts_whenever_it_takes_the_machine_back() -> None:
    served = {"endpoint": {"type": "vllm", "model": "a/teacher"}}
    in_turn = starts(works(teacher=served, judge=served, run={"rounds": 1}))
    assert in_turn == [
        ("label", None),
        ("evaluate", -1),
        ("train", 0),
        ("evaluate", 0),
        ("judge", 1),
        ("train", 1),
        ("evaluate", 1),
    ]


def starts(found: Sequence[Work]) -> list[tuple[str, int | None]]:
    return [(each.stage, each.round) for each in found if each.starts]
