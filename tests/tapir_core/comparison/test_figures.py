"""From who was right about what to table and verdict: known differences are told as what they are."""

import json
import random
import re
from dataclasses import replace

import pytest

from tapir_core.comparison.figures import ArmRow, ComparedArms, compare_arms, covers_sentence, verdicts
from tapir_core.comparison.outcome import ArmOutcome, Graded, Training
from tapir_core.comparison.plan import Arm
from tapir_core.reporting.arms_report import (
    arms_card,
    arms_json,
    arms_plots_card,
    arms_tables,
    brief_tables,
    narrow_tables,
    render_arms,
)
from tapir_core.statistics import paired_values, rerun_sd, resample, share_interval
from tests.shown_plots import read_plots

REFERENCE = Arm("multi_round", "Curriculum", "reference", False)
RANDOM = Arm("random", "Random", "rounds", False)
TRIAL = Arm("no_mfd", "Without <MFD>", "rounds", True)
ITEMS = 300


def graded(share: float, seed: int, missing: int = 0) -> Graded:
    """A student with this share right. The same items are easy for all."""
    hardness = random.Random(seed)
    correct = {f"{seed} {item}": float(hardness.random() < share) for item in range(ITEMS)}
    kept = dict(list(correct.items())[missing:])
    task_types = {item: "Math" if item.endswith("1") else "Others" for item in correct}
    return Graded(kept, task_types, {item: 5.0 if name == "Math" else 1.0 for item, name in task_types.items()})


def outcome(arm: Arm, seed: int, share: float, *, tokens: int = 1000, missing: int = 0) -> ArmOutcome:
    students = {
        (number, split): graded(value, seed, missing)
        for number, value in ((-1, 0.02), (0, 0.3), (1, share))
        for split in ("dev", "test")
    }
    trainings = {0: Training(8, 500, 100, 4, 1.0), 1: Training(16, tokens, 200, 8, 1.0)}
    answers = {"teacher": 90, "judge": 10}
    return ArmOutcome(arm, seed, f"c-{arm.name}-s{seed}", trainings, students, answers, 0.5, 25, 80, 0.4, 60.0, {}, {})


def compared(
    reference: float, rand: float, *, seeds: tuple[int, ...] = (1, 2, 3), weighted: bool = True, **more: object
) -> ComparedArms:
    outcomes = [outcome(REFERENCE, seed, reference) for seed in seeds]
    outcomes += [outcome(RANDOM, seed, rand, tokens=1010) for seed in seeds]
    outcomes += [outcome(TRIAL, seeds[0], 0.9)]
    if not weighted:
        bare = [{place: replace(of, weights={}) for place, of in each.students.items()} for each in outcomes]
        outcomes = [replace(each, students=students) for each, students in zip(outcomes, bare, strict=True)]
    settings = {"unfinished": (), "prices": "as it was paid", "concludes": True, **more}
    return compare_arms("c", [REFERENCE, RANDOM, TRIAL], outcomes, **settings)  # type: ignore[arg-type]  # tests say only what differs


def row_of(found: ComparedArms, name: str) -> ArmRow:
    [row] = [each for each in found.rows if each.name == name]
    return row


def test_at_natural_shares_a_row_has_its_weighted_score_and_difference_and_no_verdict_reads_them() -> None:
    found = compared(0.55, 0.4)
    row, rand = row_of(found, "multi_round"), row_of(found, "random")
    assert row.test is not None
    assert row.natural is not None
    assert row.natural_to_random is not None
    assert (rand.natural_to_random, row.natural.n) == (None, row.test.n)
    weighted = [
        sum(each.weights[item] * mark for item, mark in each.correct.items()) / sum(each.weights.values())
        for each in (graded(0.55, seed) for seed in (1, 2, 3))
    ]
    assert row.natural.value == pytest.approx(sum(weighted) / 3)
    assert row.natural.low90 < row.natural.value < row.natural.high90
    assert "At natural shares" in arms_card(found)
    assert verdicts(found) == verdicts(compared(0.55, 0.4, weighted=False))


def test_without_weights_nothing_is_told_of_natural_shares() -> None:
    found = compared(0.55, 0.4, weighted=False)
    assert {row.natural for row in found.rows} == {row.natural_to_random for row in found.rows} == {None}
    assert "natural" not in arms_card(found)
    assert [table.title for table in narrow_tables(found)].count("At natural shares") == 0


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (0.55, "Curriculum beats Random: +"),
        (0.4, "That Curriculum beats Random is not shown: +0.0 points"),
        (0.28, "Curriculum does not beat Random, it is worse: -"),
    ],
)
def test_a_verdict_is_read_off_the_interval(reference: float, words: str) -> None:
    found = compared(reference, 0.4)
    assert words in verdicts(found)[0]


def test_exploratory_arms_have_figures_and_no_verdict() -> None:
    found = compared(0.5, 0.4)
    row = row_of(found, "no_mfd")
    assert row.to_random is not None
    assert row.to_random.run_seeds == 1
    assert not [sentence for sentence in verdicts(found) if "MFD" in sentence]
    assert "Without <MFD> (exploratory)" in [cells[0] for cells in arms_tables(found)["results"].rows]
    assert (
        "figures of one run seed cover the choice of instructions and what a rerun changes (SD 2.1 points, measured on "
        "the quickstart student), and no other run seed"
    ) in covers_sentence(found)


def test_with_one_run_seed_what_a_rerun_changes_is_in_every_interval_but_the_backbones() -> None:
    found = compared(0.5, 0.46, seeds=(1,))
    rows = {name: row_of(found, name) for name in ("backbone", "S_0", "multi_round", "random")}
    for name, row in rows.items():
        assert row.test is not None
        items = resample({1: graded_of(name)}, rng=random.Random(0))
        assert items is not None
        wider = (row.test.high90 - row.test.value) - (items.high90 - items.value)
        assert wider == pytest.approx(0, abs=0.004) if name == "backbone" else wider > 0.008
    row = rows["multi_round"]
    assert row.to_random is not None
    assert row.to_random.covers == "items and reruns"
    assert row.to_random.high90 - row.to_random.low90 > 2 * 1.6 * rerun_sd(2)
    backbone = rows["backbone"].to_random
    assert backbone is not None
    assert backbone.high90 - backbone.low90 > 2 * 1.6 * rerun_sd(1)
    assert covers_sentence(found).startswith(
        "Intervals cover the choice of instructions and what a rerun changes (SD 2.1"
    )


def graded_of(name: str) -> dict[str, float]:
    """The marks of the last students of `compared`'s rows with run seed 1."""
    shares = {"backbone": 0.02, "S_0": 0.3, "multi_round": 0.5, "random": 0.46}
    return dict(graded(shares[name], 1).correct)


def test_a_difference_of_one_run_seed_that_a_rerun_could_make_is_not_shown() -> None:
    """The instructions alone would show it: the same are easy for both students."""
    sure, seeds = compared(0.44, 0.4, seeds=(1,)), compared(0.44, 0.4, seeds=(1, 2, 3))
    items = resample(
        paired_values({1: dict(graded(0.44, 1).correct)}, {1: dict(graded(0.4, 1).correct)}), rng=random.Random(0)
    )
    assert items is not None
    assert items.low90 > 0
    assert verdicts(sure)[0].startswith("That Curriculum beats Random is not shown")
    assert verdicts(seeds)[0].startswith("Curriculum beats Random")


def test_marks_of_one_run_seed_that_are_all_equal_have_wilsons_interval_and_a_rerun() -> None:
    found = compare_arms("c", [REFERENCE], [outcome(REFERENCE, 1, 1.0)], unfinished=(), prices="", concludes=True)
    row = row_of(found, "multi_round")
    assert row.test is not None
    low, _ = share_interval(1.0, ITEMS)
    assert row.test.low == pytest.approx(1 - ((1 - low) ** 2 + (1.96 * rerun_sd(1)) ** 2) ** 0.5, abs=1e-4)
    assert row.test.high == 1.0


def test_every_primary_arm_is_set_against_random_the_reference_and_what_all_start_from() -> None:
    said = verdicts(compared(0.5, 0.4))
    assert [sentence.split(":")[0] for sentence in said] == [
        "Curriculum beats Random",
        "Curriculum beats S_0, after basic fine-tuning",
        "Random beats S_0, after basic fine-tuning",
    ]


def test_no_verdict_is_drawn_before_every_primary_run_is_finished_or_where_none_is_wanted() -> None:
    unfinished = compared(0.5, 0.4, unfinished=("c-random-s3",), concludes=False)
    assert verdicts(unfinished) == ["No verdict: 1 runs are not finished (c-random-s3)."]
    assert "too small to carry one" in verdicts(compared(0.5, 0.4, concludes=False))[0]


def test_the_rows_begin_with_backbone_and_s_0_and_say_what_each_arm_took() -> None:
    found = compared(0.5, 0.4)
    assert [row.name for row in found.rows] == ["backbone", "S_0", "multi_round", "random", "no_mfd"]
    costs = {row.name: row.costs for row in found.rows}
    assert costs["S_0"] is None
    rand = costs["random"]
    assert rand is not None
    assert (rand["tokens"], rand["tokens_ratio"], rand["steps_ratio"]) == (1010, 1.01, 1.0)
    assert (rand["teacher_answers"], rand["judge_answers"], rand["stored_share"], rand["paid_requests"]) == (
        90,
        10,
        0.25,
        80,
    )
    assert (rand["all_tokens"], rand["answer_tokens"], rand["all_steps"], rand["distinct"]) == (1510, 300, 12, None)
    curve = next(row.curve for row in found.rows if row.name == "random")
    assert [point.tokens for point in curve] == [0, 1010]
    assert curve[0].test.value == pytest.approx(next(row for row in found.rows if row.name == "S_0").test.value)  # type: ignore[union-attr]  # a row without a score fails the test too
    assert set(found.rows[2].task_types) == {"Math", "Others"}


def test_what_an_arm_cost_stands_in_a_table_of_its_own_of_at_most_nine_columns() -> None:
    outcomes = [replace(outcome(REFERENCE, seed, 0.5), distinct=20 + seed) for seed in (1, 2)]
    outcomes += [replace(outcome(RANDOM, seed, 0.4), distinct=20 if seed == 1 else None) for seed in (1, 2)]
    found = compare_arms("c", [REFERENCE, RANDOM], outcomes, unfinished=(), prices="as it was paid", concludes=True)
    results, costs = brief_tables(found)
    assert [*costs.columns] == [
        "Arm", "Tokens", "All tokens", "of answers", "All steps", "Instructions", "Teacher calls", "Judge calls", "USD",
    ]  # fmt: skip
    cells = {row[0]: row[1:] for row in costs.rows}
    assert [*cells["Curriculum"]] == ["1,000", "1,500", "300", "12", "22", "90", "10", "0.5000"]
    assert cells["Random"][4] == "–", "a run that does not say has an empty cell, never 0"
    assert [*cells] == ["Curriculum", "Random"], "what S_0 costs is part of each arm"
    tables = arms_tables(found)
    for table in (results, costs, *narrow_tables(found), tables["training"], tables["calls"]):
        assert len(table.columns) <= 9
    assert "All trainings" in [table.title for table in narrow_tables(found)]
    for shown in (arms_card(found), render_arms(found)):
        assert "Instructions" in shown
    assert [row["costs"] and row["costs"]["distinct"] for row in json.loads(arms_json(found))["rows"]] == [
        None, None, 21.5, None,
    ]  # fmt: skip


def test_the_json_has_every_figure_by_the_names_that_its_readers_know() -> None:
    found = compared(0.5, 0.4)
    row, told = row_of(found, "multi_round"), json.loads(arms_json(found))
    [kept] = [each for each in told["rows"] if each["name"] == "multi_round"]
    assert row.to_random is not None
    names = {"value", "run_seeds", "items", "low90", "high90", "low95", "high95", "p", "covers"}
    assert kept["test"].keys() == kept["curve"][0]["test"].keys() == told["differences"]["random - S_0"].keys() == names
    assert (kept["to_random"]["low95"], kept["to_random"]["items"]) == (row.to_random.low, row.to_random.n)


def test_an_arm_that_lacks_too_many_answers_has_no_figure_and_says_why() -> None:
    outcomes = [outcome(REFERENCE, 1, 0.5), outcome(RANDOM, 1, 0.4, missing=30)]
    found = compare_arms("c", [REFERENCE, RANDOM], outcomes, unfinished=(), prices="", concludes=True)
    row = row_of(found, "random")
    assert (row.test, row.dev, row.to_random, row.curve, row.task_types) == (None, None, None, (), {})
    assert row.missing == 30
    assert "30 of 300 test answers are missing" in row.why
    assert ("multi_round", "random") not in found.differences
    page = render_arms(found)
    assert "Curriculum</text>" in page
    assert "Random</text>" not in page, "it has neither bars nor a curve"


def test_every_row_says_how_many_test_answers_are_missing() -> None:
    """Of all run seeds together; few enough leave the figures as they are."""
    outcomes = [outcome(REFERENCE, seed, 0.5, missing=10 * seed - 10) for seed in (1, 2)]
    outcomes += [outcome(RANDOM, seed, 0.4) for seed in (1, 2)]
    found = compare_arms("c", [REFERENCE, RANDOM], outcomes, unfinished=(), prices="", concludes=True)
    row = row_of(found, "multi_round")
    assert row.test is not None
    assert (row.missing, row.test.n) == (10, 590)
    for table in (arms_tables(found)["results"], brief_tables(found)[0], narrow_tables(found)[0]):
        column = table.columns.index("Missing")
        assert [cells[column] for cells in table.rows] == ["10", "10", "10", "0"]
    assert [each["missing"] for each in json.loads(arms_json(found))["rows"]] == [10, 10, 10, 0]
    assert "Missing" in arms_card(found)
    assert "Missing" in render_arms(found)


def test_a_student_on_the_way_that_lacks_too_many_answers_is_left_out_of_the_curve_alone() -> None:
    whole = outcome(REFERENCE, 1, 0.5)
    lacking = {key: graded(0.3, 1, 30) if key[0] == 0 else each for key, each in whole.students.items()}
    outcomes = [replace(whole, students=lacking), outcome(RANDOM, 1, 0.4)]
    found = compare_arms("c", [REFERENCE, RANDOM], outcomes, unfinished=(), prices="", concludes=True)
    reference, random_row, basic = (row_of(found, name) for name in ("multi_round", "random", "S_0"))
    assert reference is not None
    assert random_row is not None
    assert basic is not None
    assert (len(reference.curve), len(random_row.curve)) == (1, 2)
    assert reference.test is not None
    assert basic.test is None


def test_a_dev_split_that_lacks_too_many_answers_has_no_figure_and_the_test_split_keeps_its_own() -> None:
    whole = outcome(REFERENCE, 1, 0.5)
    lacking = {key: graded(0.5, 1, 30) if key == (1, "dev") else each for key, each in whole.students.items()}
    outcomes = [replace(whole, students=lacking), outcome(RANDOM, 1, 0.4)]
    row = row_of(
        compare_arms("c", [REFERENCE, RANDOM], outcomes, unfinished=(), prices="", concludes=True), "multi_round"
    )
    assert row.test is not None
    assert (row.dev, row.missing, row.why) == (None, 0, "")


def test_intervals_of_an_accuracy_end_at_0_and_1() -> None:
    outcomes = [outcome(REFERENCE, 1, 1.0), outcome(REFERENCE, 2, 0.9)]
    found = compare_arms("c", [REFERENCE], outcomes, unfinished=(), prices="", concludes=True)
    row = row_of(found, "multi_round")
    assert row.test is not None
    assert row.test.low < row.test.value < row.test.high == 1.0


@pytest.mark.parametrize("lacking", ["multi_round", "random"])
def test_what_has_no_figure_has_no_verdict_and_the_others_keep_theirs(lacking: str) -> None:
    other = Arm("hard_only", "Hard only", "whole", False)
    arms, shares = [REFERENCE, RANDOM, other], (0.6, 0.4, 0.5)
    outcomes = [
        outcome(arm, seed, share, missing=30 if arm.name == lacking and seed == 2 else 0)
        for seed in (1, 2, 3)
        for arm, share in zip(arms, shares, strict=True)
    ]
    found = compare_arms("c", arms, outcomes, unfinished=(), prices="", concludes=True)
    label = next(arm.label for arm in arms if arm.name == lacking)
    said = verdicts(found)
    assert f"No verdict on {label}: with run seed 2, 30 of 300 test answers are missing, more than 5%." in said
    assert not [sentence for sentence in said if "beats" in sentence and label in sentence]
    assert [sentence for sentence in said if "Hard only beats" in sentence]
    assert "No verdict on" in arms_card(found)
    assert "No verdict on" in render_arms(found)


def test_a_difference_of_which_too_many_instructions_lack_one_of_the_two_answers_is_none() -> None:
    """Each of the two lacks 5 %, and they lack different ones."""
    whole = graded(0.5, 1)
    names = sorted(whole.correct)
    halves = [
        Graded({k: v for k, v in whole.correct.items() if k not in gone}, whole.task_types)
        for gone in (names[:15], names[15:30])
    ]
    outcomes = [
        replace(outcome(arm, 1, 0.5), students=outcome(arm, 1, 0.5).students | {(1, "test"): half})
        for arm, half in zip((REFERENCE, RANDOM), halves, strict=True)
    ]
    found = compare_arms("c", [REFERENCE, RANDOM], outcomes, unfinished=(), prices="", concludes=True)
    row = row_of(found, "multi_round")
    assert row.test is not None
    assert row.to_random is None
    assert "No verdict on Curriculum against Random: too many answers of one or the other are missing." in verdicts(
        found
    )


def test_a_task_type_that_lacks_too_many_answers_has_no_figure_and_the_others_have_intervals() -> None:
    whole = outcome(REFERENCE, 1, 0.5)
    test = whole.students[1, "test"]
    maths = [item for item, task_type in test.task_types.items() if task_type == "Math"]
    lacking = Graded({item: mark for item, mark in test.correct.items() if item not in maths[:3]}, test.task_types)
    outcomes = [replace(whole, students=whole.students | {(1, "test"): lacking}), outcome(RANDOM, 1, 0.4)]
    found = compare_arms("c", [REFERENCE, RANDOM], outcomes, unfinished=(), prices="", concludes=True)
    row = row_of(found, "multi_round")
    assert row.test is not None, "1 % of all"
    assert set(row.task_types) == {"Others"}, "10 % of Math"
    others = row.task_types["Others"]
    assert others.low < others.value < others.high
    cells = {cells[0]: cells[1:] for cells in arms_tables(found)["task_types"].rows}
    place = [each.name for each in found.rows].index("multi_round")
    assert cells["Math"][place] == "–"
    assert re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", cells["Others"][place])


def test_students_that_are_all_wrong_have_an_interval_that_does_not_say_they_always_are() -> None:
    outcomes = [outcome(REFERENCE, seed, 0.0) for seed in (1, 2)]
    found = compare_arms("c", [REFERENCE], outcomes, unfinished=(), prices="", concludes=True)
    row = row_of(found, "multi_round")
    assert row.test is not None
    assert (row.test.value, row.test.low) == (0.0, 0.0)
    assert 0.01 < row.test.high < 0.02


def test_page_and_card_escape_labels_and_carry_verdict_and_table() -> None:
    found = compared(0.5, 0.4)
    page, card = render_arms(found), arms_card(found)
    assert page.count("<svg") == 3
    assert "Without &lt;MFD&gt;" in page
    assert "<script" not in page
    assert card.startswith("| Arm |")
    assert "- Curriculum beats Random: +" in card
    assert "not corrected for the number of arms" in card


def test_the_plots_of_the_page_are_a_card_of_their_own() -> None:
    said = read_plots(arms_plots_card(compared(0.55, 0.4)))
    assert [*said] == ["Difference to random", "By training tokens", "By task type"]
    assert "thousand training tokens after S_0" in said["By training tokens"]
    for label in ("Curriculum", "Random", "Math", "Others"):
        assert label in said["By task type"]


def test_before_there_is_anything_to_draw_the_card_of_plots_is_empty() -> None:
    assert arms_plots_card(ComparedArms("c", (), "multi_round", (), {}, "as it was paid", False)) == ""
