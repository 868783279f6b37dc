"""Families of what has to be worked out: sums, products, stories; who is tallest, what is biggest, supposed colours."""

import random
from itertools import accumulate, pairwise

from tapir_core.standin import family

_SUMS = {1: (2, 1, 20), 2: (2, 21, 99), 3: (3, 10, 99), 4: (2, 100, 999), 5: (3, 100, 999)}


def _draw_sum(level: int, rng: random.Random) -> family.Slots:
    count, low, high = _SUMS[level]
    return {"terms": " + ".join(str(rng.randint(low, high)) for _ in range(count))}


def _solve_sum(slots: family.Slots) -> family.Solution:
    terms = [int(term) for term in slots["terms"].split(" + ")]
    largest = max(terms)
    size = 1 if largest <= 20 else 2 if largest <= 99 else 4
    level = max(3, size + 1) if len(terms) == 3 else size
    return family.Solution(
        level,
        reference=str(sum(terms)),
        working=family.add_columns(terms),
        # What each column carries.
        traits=tuple(sum(term % base for term in terms) // base for base in (10, 100, 1000)),
    )


_PRODUCTS = {
    1: ((2, 12), (2, 12)),
    2: ((13, 99), (2, 9)),
    3: ((100, 999), (2, 9)),
    4: ((13, 99), (13, 99)),
    5: ((100, 999), (13, 99)),
}


def _draw_product(level: int, rng: random.Random) -> family.Slots:
    factors = [str(rng.randint(*bounds)) for bounds in _PRODUCTS[level]]
    rng.shuffle(factors)
    return {"a": factors[0], "b": factors[1]}


def _solve_product(slots: family.Slots) -> family.Solution:
    a, b = int(slots["a"]), int(slots["b"])
    large, small = max(a, b), min(a, b)
    level = min(
        level
        for level, ((low, high), (least, most)) in _PRODUCTS.items()
        if low <= large <= high and least <= small <= most
    )
    if level == 1 and small <= 5:
        working = f"Count by {large}: {', '.join(str(large * step) for step in range(1, small + 1))}."
    else:
        parts, other = (_fives(small), large) if level == 1 else (family.split_places(large), small)
        products = [f"{part} x {other} = {part * other}" for part in parts]
        working = f"{', '.join([*products, *family.add_up([part * other for part in parts])])}."
    # Which factor comes first, and whether the smaller one has a digit above 5.
    return family.Solution(level, str(large * small), working, traits=(a > b, max(str(small)) > "5"))


def _fives(number: int) -> list[int]:
    """A number from 6 to 12 as 5 or 10 and what is left."""
    round_part = 5 if number < 10 else 10
    return [part for part in (round_part, number - round_part) if part]


_STOCK_STEPS = {1: (1, 2, 20), 2: (2, 2, 20), 3: (3, 2, 20), 4: (3, 21, 99), 5: (4, 21, 99)}
_SIGNS = {"buys": 1, "finds": 1, "loses": -1, "sells": -1}


def _draw_stock(level: int, rng: random.Random) -> family.Slots:
    count, low, high = _STOCK_STEPS[level]
    start = held = rng.randint(low, high)
    steps = []
    for _ in range(count):
        number = rng.randint(low, high)
        verb = rng.choice(list(_SIGNS) if number <= held else ["buys", "finds"])
        held += _SIGNS[verb] * number
        steps.append(f"{verb} {number}")
    return {
        "name": rng.choice(family.WORDS.names),
        "start": str(start),
        "goods": rng.choice(family.WORDS.goods),
        "steps": ", ".join(steps),
    }


_STOCK_LEVELS = {(1, False): 1, (2, False): 2, (3, False): 3, (3, True): 4, (4, False): 5, (4, True): 5}
"""Steps, and whether a number is above 20 → level."""


def _solve_stock(slots: family.Slots) -> family.Solution:
    start = int(slots["start"])
    steps = [(verb, int(number)) for verb, number in (step.split(" ") for step in slots["steps"].split(", "))]
    level = _STOCK_LEVELS[len(steps), max(start, *(number for _, number in steps)) > 20]
    held = list(accumulate((_SIGNS[verb] * number for verb, number in steps), initial=start))
    if min(held) < 0:
        raise ValueError(f"{slots['steps']!r} is more than {start}")
    changes = list(pairwise(held))
    lines = [
        f"{verb} {number}: {before} {'+' if _SIGNS[verb] > 0 else '-'} {number} = {after}"
        for (verb, number), (before, after) in zip(steps, changes, strict=True)
    ]
    return family.Solution(
        level,
        reference=str(held[-1]),
        working=f"{', '.join(lines)}.",
        # Gain or loss, step by step, and in how many steps the ones alone change.
        traits=(*(_SIGNS[verb] for verb, _ in steps), sum(one // 10 == other // 10 for one, other in changes)),
    )


_ENDS = {"taller": ("tallest", "shortest"), "older": ("oldest", "youngest"), "faster": ("fastest", "slowest")}


def _draw_ranking(level: int, rng: random.Random) -> family.Slots:
    people = rng.sample(family.WORDS.names, {1: 2, 2: 3, 3: 4, 4: 4, 5: 5}[level])
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


def _solve_ranking(slots: family.Slots) -> family.Solution:
    words = slots["facts"].replace(",", "").split(" ")
    relation, pairs = words[2], [(words[0], words[4]), *zip(words[5::3], words[7::3], strict=True)]
    ranking = _chain(pairs)
    in_order = [one for one, _ in pairs] == ranking[:-1]
    level = len(pairs) if len(pairs) < 3 or (len(pairs) == 3 and in_order) else len(pairs) + 1
    end = _ENDS[relation].index(slots["end"])
    # Who stands below somebody is not the first; who stands above somebody is not the last.
    steps = [f"{pair[0]} above {pair[1]}: not {pair[1 - end]}." for pair in pairs]
    result = (ranking[0], ranking[-1])[end]
    return family.Solution(
        level,
        reference=result,
        working=f"{' '.join(steps)} Left: {result}.",
        # Relation, end that is asked for, and which of the facts names who stands there.
        traits=(relation, slots["end"], [result in pair for pair in pairs].index(True)),
    )


def _chain(pairs: list[tuple[str, str]]) -> list[str]:
    """The one order in which the first of each pair stands right before its second.

    Raises:
        LookupError, ValueError: there is none.
    """
    above = dict(pairs)
    [top] = set(above) - set(above.values())
    return family.distinct(list(accumulate(pairs, lambda last, _: above[last], initial=top)))


def _solve_biggest(slots: family.Slots) -> family.Solution:
    things = family.distinct(slots["things"].split(", "))
    sizes = list(map(family.WORDS.ladder.index, things))
    second, first = sorted(sizes)[-2:]
    return family.Solution(
        level=len(things) - 1,
        reference=family.WORDS.ladder[first],
        working=family.keep_largest(things, key=family.WORDS.ladder.index),
        # Place of the biggest, and whether another is close to it.
        traits=(sizes.index(first), first - second <= 2),
    )


def _draw_supposed(level: int, rng: random.Random) -> family.Slots:
    things = rng.sample(list(family.WORDS.true_colours), level)
    colours = {
        thing: rng.choice([each for each in family.WORDS.colours if each != family.WORDS.true_colours[thing]])
        for thing in things
    }
    first, *others = things
    supposed = [f"{first} was {colours[first]}", *(f"{thing} {colours[thing]}" for thing in others)]
    return {"supposed": ", ".join(supposed), "asked": rng.choice(things)}


def _solve_supposed(slots: family.Slots) -> family.Solution:
    asked = slots["asked"]
    clauses = [clause.split(" ") for clause in slots["supposed"].replace(" was ", " ", 1).split(", ")]
    things = family.distinct([thing for thing, _ in clauses])
    colours = dict(zip(things, [colour for _, colour in clauses], strict=True))
    passed = "".join(f"{thing}: no. " for thing in things[: things.index(asked)])
    return family.Solution(
        level=len(clauses),
        reference=colours[asked],
        working=f"Asked: {asked}. {passed}{asked}: yes, {colours[asked]} here, in truth "
        f"{family.WORDS.true_colours[asked]}.",
        traits=(things.index(asked),),
    )


_THING, _COLOUR = family.any_of(family.WORDS.true_colours), family.any_of(family.WORDS.colours)

FAMILIES = (
    family.Family(
        name="sum",
        task_type="Math",
        phrasings=("What is {terms}?", "Compute {terms}.", "{terms} = ?", "Add up: {terms}", "Find the sum {terms}."),
        slots={"terms": r"\d{1,3}(?: \+ \d{1,3}){1,2}"},
        draw=_draw_sum,
        solve=_solve_sum,
    ),
    family.Family(
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
    family.Family(
        name="stock",
        task_type="Reasoning",
        phrasings=(
            "{name} has {start} {goods}, {steps}. How many now?",
            "{name} owns {start} {goods}, then {steps}. Total?",
            "How many {goods} has {name}? At first {start}, then {steps}.",
        ),
        slots={
            "name": family.any_of(family.WORDS.names),
            "start": r"\d{1,2}",
            "goods": family.any_of(family.WORDS.goods),
            "steps": r"(?:buys|finds|loses|sells) \d{1,2}(?:, (?:buys|finds|loses|sells) \d{1,2})*",
        },
        draw=_draw_stock,
        solve=_solve_stock,
    ),
    family.Family(
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
    family.Family(
        name="biggest",
        task_type="Common-Sense",
        phrasings=(
            "Which is biggest: {things}?",
            "Biggest of {things}?",
            "Name the biggest: {things}",
            "{things}: what is biggest?",
        ),
        slots={"things": r"[A-Za-z]+(?:, [A-Za-z]+)+"},
        draw=lambda level, rng: {"things": ", ".join(rng.sample(family.WORDS.ladder, level + 1))},
        solve=_solve_biggest,
    ),
    family.Family(
        name="supposed",
        task_type="Counterfactual",
        phrasings=(
            "If {supposed}, what colour would {asked} be?",
            "Suppose {supposed}. What colour is {asked}?",
            "Imagine {supposed}. Colour of {asked}?",
        ),
        slots={"supposed": f"{_THING} was {_COLOUR}(?:, {_THING} {_COLOUR})*", "asked": "[a-z]+"},
        draw=_draw_supposed,
        solve=_solve_supposed,
    ),
)
