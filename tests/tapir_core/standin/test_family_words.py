import pytest

from tapir_core.standin.families import recognise


@pytest.mark.parametrize(
    ("instruction", "level", "reference"),
    [
        ("Give the second word of train garden kitchen.", 1, "garden"),
        ("Which word is last: table jacket winter candle needle tiger yellow?", 4, "yellow"),
        ("king in the plural?", 1, "kings"),
        ("Plural of box, puppy?", 2, "boxes, puppies"),
        ("Make plural: match, shelf", 3, "matches, shelves"),
        ("Passive voice: Kate carries the bench.", 1, "The bench is carried by Kate"),
        ("Say in passive form: Ida has washed the fence.", 4, "The fence has been washed by Ida"),
        ("Passive voice: Paul must not open the window.", 5, "The window must not be opened by Paul"),
        ("Translate to Spanish: four, bread, six", 3, "cuatro, pan, seis"),
        ("bird in Spanish?", 1, "pájaro"),
    ],
)
def test_known_words(instruction: str, level: int, reference: str) -> None:
    problem = recognise(instruction)
    assert problem is not None
    assert (problem.level, problem.reference) == (level, reference)
