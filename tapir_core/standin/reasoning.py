"""Families of what has to be worked out: sums, products, stories; who is tallest, what is biggest, supposed colours."""

import random
from itertools import pairwise

from tapir_core.standin.family import Family, Slots, Solution
from tapir_core.standin.lexicon import COLOURS, GOODS, LADDER, NAMES, TRUE_COLOURS

__all__ = ["FAMILIES"]

_SUMS = {1: (2, 1, 20), 2: (2, 21, 99), 3: (3, 10, 99), 4: (2, 100, 999), 5: (3, 100, 999)}


def _draw_sum(level: int, rng: random.Random) -> Slots:
    count, low, high = _SUMS[level]
    return {"terms": " + ".join(str(rng.randint(low, high)) for _ in range(count))}


def _solve_sum(slots: Slots) -> Solution:
    terms = [int(term) for term in slots["terms"].split(" + ")]
    total = sum(terms)
    if len(terms) == 3:
        first = terms[0] + terms[1]
        working = f"{terms[0]} + {terms[1]} = {first}, {first} + {terms[2]} = {total}."
        return Solution(3 if max(terms) <= 99 else 5, str(total), working)
    one, other = terms
    if max(terms) <= 20:
        return Solution(1, str(total), f"{one} + {other} = {total}.")
    base = 10 if max(terms) <= 99 else 100
    high, low = one // base * base + other // base * base, one % base + other % base
    working = (
        f"{one // base * base} + {other // base * base} = {high}, {one % base} + {other % base} = {low}, "
        f"{high} + {low} = {total}."
    )
    return Solution(2 if base == 10 else 4, str(total), working)


_PRODUCTS = {
    1: ((2, 12), (2, 12)),
    2: ((13, 99), (2, 9)),
    3: ((100, 999), (2, 9)),
    4: ((13, 99), (13, 99)),
    5: ((100, 999), (13, 99)),
}


def _draw_product(level: int, rng: random.Random) -> Slots:
    factors = [str(rng.randint(*bounds)) for bounds in _PRODUCTS[level]]
    rng.shuffle(factors)
    return {"a": factors[0], "b": factors[1]}


def _solve_product(slots: Slots) -> Solution | None:
    large, small = sorted((int(slots["a"]), int(slots["b"])), reverse=True)
    bounds = ((low <= large <= high and least <= small <= most) for (low, high), (least, most) in _PRODUCTS.values())
    level = next((level for level, fits in zip(_PRODUCTS, bounds, strict=True) if fits), None)
    if level is None:
        return None
    product = large * small
    if level == 1:
        return Solution(1, str(product), f"{small} groups of {large} make {product}.")
    split, other = (small, large) if small >= 10 else (large, small)
    base = 10 if split <= 99 else 100
    high, low = split // base * base, split % base
    working = (
        f"{high} x {other} = {high * other}, {low} x {other} = {low * other}, "
        f"{high * other} + {low * other} = {product}."
    )
    return Solution(level, str(product), working)


_STOCK_STEPS = {1: (1, 2, 20), 2: (2, 2, 20), 3: (3, 2, 20), 4: (3, 21, 99), 5: (4, 21, 99)}
_SIGNS = {"buys": 1, "finds": 1, "loses": -1, "sells": -1}


def _draw_stock(level: int, rng: random.Random) -> Slots:
    count, low, high = _STOCK_STEPS[level]
    start = held = rng.randint(low, high)
    steps = []
    for _ in range(count):
        number = rng.randint(low, high)
        verb = rng.choice(list(_SIGNS) if number <= held else ["buys", "finds"])
        held += _SIGNS[verb] * number
        steps.append(f"{verb} {number}")
    return {"name": rng.choice(NAMES), "start": str(start), "goods": rng.choice(GOODS), "steps": ", ".join(steps)}


def _solve_stock(slots: Slots) -> Solution | None:
    held = int(slots["start"])
    steps = [(verb, int(number)) for verb, number in (step.split(" ") for step in slots["steps"].split(", "))]
    largest = max(held, *(number for _, number in steps))
    if slots["name"] not in NAMES or slots["goods"] not in GOODS or len(steps) > 4:
        return None
    level = len(steps) if largest <= 20 and len(steps) <= 3 else len(steps) + 1
    if largest > 20 and len(steps) < 3:
        return None
    lines = []
    for verb, number in steps:
        after = held + _SIGNS[verb] * number
        if after < 0:
            return None
        lines.append(f"{held} {'+' if _SIGNS[verb] > 0 else '-'} {number} = {after}")
        held = after
    return Solution(level, str(held), f"{', '.join(lines)}.")


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
        name="sum",
        task_type="Math",
        phrasings=("What is {terms}?", "Compute {terms}.", "{terms} = ?", "Add up: {terms}", "Find the sum {terms}."),
        slots={"terms": r"\d{1,3}(?: \+ \d{1,3}){1,2}"},
        draw=_draw_sum,
        solve=_solve_sum,
    ),
    Family(
        name="product",
        task_type="Math",
        phrasings=(
            "What is {a} times {b}?",
            "Multiply {a} by {b}.",
            "{a} x {b} = ?",
            "Work out {a} * {b}.",
            "{b} times {a}?",
        ),
        slots={"a": r"\d{1,3}", "b": r"\d{1,3}"},
        draw=_draw_product,
        solve=_solve_product,
    ),
    Family(
        name="stock",
        task_type="Reasoning",
        phrasings=(
            "{name} has {start} {goods}, {steps}. How many now?",
            "{name} owns {start} {goods}, then {steps}. Total?",
            "How many {goods} has {name}? At first {start}, then {steps}.",
        ),
        slots={
            "name": "[A-Z][a-z]+",
            "start": r"\d{1,2}",
            "goods": "[a-z]+",
            "steps": r"(?:buys|finds|loses|sells) \d{1,2}(?:, (?:buys|finds|loses|sells) \d{1,2})*",
        },
        draw=_draw_stock,
        solve=_solve_stock,
    ),
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
