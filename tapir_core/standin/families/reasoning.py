"""Families that compare and suppose: who is tallest, what is biggest, which colour something would have."""

import random
from itertools import pairwise

from tapir_core.standin.families.family import Family, Slots, Solution
from tapir_core.standin.families.lexicon import COLOURS, LADDER, NAMES, TRUE_COLOURS

__all__ = ["FAMILIES"]

_ENDS = {"taller": ("tallest", "shortest"), "older": ("oldest", "youngest"), "faster": ("fastest", "slowest")}


def _draw_ranking(level: int, rng: random.Random) -> Slots:
    people = rng.sample(NAMES, {1: 2, 2: 3, 3: 4, 4: 4, 5: 5}[level])
    pairs = list(pairwise(people))
    in_order = list(pairs)
    while level == 4 and pairs == in_order:
        rng.shuffle(pairs)
    if level == 5:
        rng.shuffle(pairs)
    relation = rng.choice(list(_ENDS))
    (first, second), *others = pairs
    facts = [f"{first} is {relation} than {second}", *(f"{one} than {other}" for one, other in others)]
    return {"facts": ", ".join(facts), "end": rng.choice(_ENDS[relation])}


def _solve_ranking(slots: Slots) -> Solution | None:
    words = slots["facts"].replace(",", "").split(" ")
    relation, pairs = words[2], [(words[0], words[4]), *zip(words[5::3], words[7::3], strict=True)]
    ranking = _chain(dict(pairs)) if len(dict(pairs)) == len(pairs) <= 4 else None
    if ranking is None or slots["end"] not in _ENDS[relation]:
        return None
    in_order = [one for one, _ in pairs] == ranking[:-1]
    level = len(pairs) if len(pairs) < 3 or (len(pairs) == 3 and in_order) else len(pairs) + 1
    result = ranking[0] if slots["end"] == _ENDS[relation][0] else ranking[-1]
    return Solution(level, result, f"From the {_ENDS[relation][0]} down: {', '.join(ranking)}.")


def _chain(above: dict[str, str]) -> list[str] | None:
    """The one order in which each key stands right before its value, or None when there is none."""
    tops = set(above) - set(above.values())
    if len(tops) != 1:
        return None
    ranking = [tops.pop()]
    while ranking[-1] in above:
        ranking.append(above[ranking[-1]])
    return ranking if len(ranking) == len(above) + 1 else None


def _draw_biggest(level: int, rng: random.Random) -> Slots:
    return {"things": ", ".join(rng.sample(LADDER, level + 1))}


def _solve_biggest(slots: Slots) -> Solution | None:
    things = slots["things"].split(", ")
    if not set(things) <= set(LADDER) or len(set(things)) != len(things) or not 2 <= len(things) <= 6:
        return None
    ranking = sorted(things, key=LADDER.index)
    return Solution(len(things) - 1, ranking[-1], f"From small to big: {', '.join(ranking)}.")


def _draw_supposed(level: int, rng: random.Random) -> Slots:
    things = rng.sample(list(TRUE_COLOURS), level)
    colours = {thing: rng.choice([each for each in COLOURS if each != TRUE_COLOURS[thing]]) for thing in things}
    first, *others = things
    supposed = [f"{first} was {colours[first]}", *(f"{thing} {colours[thing]}" for thing in others)]
    return {"supposed": ", ".join(supposed), "asked": rng.choice(things)}


def _solve_supposed(slots: Slots) -> Solution | None:
    clauses = slots["supposed"].replace(" was ", " ", 1).split(", ")
    colours = dict(clause.split(" ") for clause in clauses)
    asked = slots["asked"]
    known = set(colours) <= set(TRUE_COLOURS) and set(colours.values()) <= set(COLOURS)
    if not known or asked not in colours or not len(colours) == len(clauses) <= 5:
        return None
    working = f"In truth {asked} is {TRUE_COLOURS[asked]}, but here it is supposed to be {colours[asked]}."
    return Solution(len(clauses), colours[asked], working)


FAMILIES = (
    Family(
        name="ranking",
        task_type="Reasoning",
        phrasings=("{facts}. Who is {end}?", "Who is {end}? {facts}.", "Given: {facts}. Name the {end}."),
        slots={
            "facts": r"[A-Z][a-z]+ is (?:taller|older|faster) than [A-Z][a-z]+(?:, [A-Z][a-z]+ than [A-Z][a-z]+)*",
            "end": "tallest|shortest|oldest|youngest|fastest|slowest",
        },
        draw=_draw_ranking,
        solve=_solve_ranking,
    ),
    Family(
        name="biggest",
        task_type="Common-Sense",
        phrasings=(
            "Which is biggest: {things}?",
            "Biggest of {things}?",
            "Name the biggest: {things}",
            "{things}: what is biggest?",
        ),
        slots={"things": r"[A-Za-z]+(?:, [A-Za-z]+)+"},
        draw=_draw_biggest,
        solve=_solve_biggest,
    ),
    Family(
        name="supposed",
        task_type="Counterfactual",
        phrasings=(
            "If {supposed}, what colour would {asked} be?",
            "Suppose {supposed}. What colour is {asked}?",
            "Imagine {supposed}. Colour of {asked}?",
        ),
        slots={"supposed": "[a-z]+ was [a-z]+(?:, [a-z]+ [a-z]+)*", "asked": "[a-z]+"},
        draw=_draw_supposed,
        solve=_solve_supposed,
    ),
)
