"""Families that calculate: sums, products and small stories of gain and loss."""

import random

from tapir_core.standin.families.family import Family, Slots, Solution
from tapir_core.standin.families.lexicon import GOODS, NAMES

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
)
