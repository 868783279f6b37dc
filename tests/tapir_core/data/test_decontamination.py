import pytest

from tapir_core.data.decontamination import SharedRuns, drop_contaminated
from tests.builders import make_pool

HELDOUT = "A baker sells twelve rolls in the morning and thirty in the afternoon."


@pytest.mark.parametrize(
    ("text", "overlaps"),
    [
        (HELDOUT, True),
        (HELDOUT.upper().replace(".", "!"), True),
        ("Read this: a baker sells twelve rolls in the morning. How many?", True),
        ("A baker sells twelve rolls in the evening.", False),
        ("morning the in rolls twelve sells baker a", False),
        ("", False),
    ],
)
def test_a_shared_run_of_words_is_an_overlap(text: str, overlaps: bool) -> None:
    assert SharedRuns([HELDOUT], 8).overlaps(text) is overlaps


def test_a_short_text_overlaps_only_when_it_is_equal() -> None:
    shared = SharedRuns(["What is 2 + 2?"], 8)
    assert shared.overlaps("what is 2 + 2")
    assert not shared.overlaps("What is 2 + 2, and why?")


def test_a_pool_loses_what_it_shares_with_the_heldout_set() -> None:
    split = drop_contaminated(make_pool(HELDOUT, "Name three rivers."), make_pool(HELDOUT + " Why?"), 8)
    assert split.kept["instruction"].to_list() == ["Name three rivers."]
    assert split.dropped["instruction"].to_list() == [HELDOUT]


def test_an_empty_pool_and_an_empty_heldout_set_are_no_special_case() -> None:
    assert drop_contaminated(make_pool(), make_pool(HELDOUT), 8).kept.height == 0
    assert drop_contaminated(make_pool(HELDOUT), make_pool(), 8).kept.height == 1
