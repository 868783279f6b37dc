import polars as pl

from tasks.evaluate import UNTYPED, score_answers


def make_questions(task_types):
    ids = [str(number) for number in range(len(task_types))]
    return pl.DataFrame(
        {"instruction_id": ids, "task_type": task_types, "reference": ["4"] * len(ids), "split": ["test"] * len(ids)}
    )


def make_answers(*responses):
    return pl.DataFrame({"instruction_id": [str(n) for n in range(len(responses))], "response": list(responses)})


def test_accuracy_stands_for_the_whole_and_by_task_type_with_its_standard_error():
    scores = score_answers(make_questions(["Math", "Math", "Music"]), make_answers("Answer: 4", "Answer: 5", "4"))
    whole = scores.filter(category="all").row(0, named=True)
    assert (whole["split"], whole["n"], round(whole["value"], 3)) == ("test", 3, 0.667)
    assert round(whole["stderr"], 3) == 0.272
    assert dict(scores.select("category", "value").iter_rows())["Music"] == 1.0


def test_an_answer_that_failed_for_good_counts_as_wrong():
    scores = score_answers(make_questions(["Math"]), make_answers(None))
    assert scores.filter(category="all")["value"].to_list() == [0.0]


def test_questions_without_a_task_type_have_a_category_of_their_own():
    scores = score_answers(make_questions(["Math", None]), make_answers("Answer: 4", "Answer: 4"))
    assert set(scores["category"]) == {"all", "Math", UNTYPED}
