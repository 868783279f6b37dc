"""Families of small facts and rules: centuries, units of measure, chemical elements."""

import random
import re
from decimal import Decimal

from tapir_core.standin.families.family import Family, Slots, Solution
from tapir_core.standin.families.lexicon import ELEMENTS

__all__ = ["FAMILIES"]

_YEAR = re.compile(r"(?:(\d{1,4}) years after )?(\d{1,4})( BC)?")


def _draw_century(level: int, rng: random.Random) -> Slots:
    if level in (1, 2):
        return {"when": str(rng.randint(1000, 1999) if level == 1 else rng.randint(100, 999))}
    if level == 3:
        return {"when": f"{rng.randint(20, 300)} years after {rng.randint(100, 1699)}"}
    before = rng.randint(10, 999)
    if level == 4:
        return {"when": f"{before} BC"}
    return {"when": f"{before + rng.randint(10, 900)} years after {before} BC"}


def _solve_century(slots: Slots) -> Solution | None:
    match = _YEAR.fullmatch(slots["when"])
    assert match is not None
    offset, year, before = int(match[1] or 0), int(match[2]), match[3] is not None
    if (
        year == 0
        or (match[1] and offset == 0)
        or (before and match[1] and offset < year)
        or (not before and year < 100)
    ):
        return None
    level = (5 if match[1] else 4) if before else 3 if match[1] else 1 if year >= 1000 else 2
    if before and match[1]:
        year, before = offset - year + 1, False  # 1 BC is followed by 1 AD: there is no year 0
    else:
        year += offset
    century = (year + 99) // 100
    era = " BC" if before else ""
    span = f"{century * 100} to {century * 100 - 99}" if before else f"{century * 100 - 99} to {century * 100}"
    return Solution(level, f"{_ordinal(century)}{era}", f"The year {year}{era} lies in {span}{era}.")


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


_STEPS = {
    ("km", "m"): 1000,
    ("m", "cm"): 100,
    ("cm", "mm"): 10,
    ("kg", "g"): 1000,
    ("t", "kg"): 1000,
    ("l", "ml"): 1000,
}
_LEAPS = {("km", "cm"): 100_000, ("m", "mm"): 1000, ("t", "g"): 1_000_000, ("km", "mm"): 1_000_000}
_UP = {(small, large): factor for (large, small), factor in _STEPS.items()}


def _draw_conversion(level: int, rng: random.Random) -> Slots:
    pairs = list({3: _UP, 5: _LEAPS}.get(level, _STEPS))
    amount = {2: str(rng.randint(100, 999)), 4: f"{rng.randint(1, 99)}.{rng.randint(1, 9)}"}.get(
        level, str(rng.randint(2, 99))
    )
    source, target = rng.choice(pairs)
    return {"amount": amount, "source": source, "target": target}


def _solve_conversion(slots: Slots) -> Solution | None:
    amount, pair = Decimal(slots["amount"]), (slots["source"], slots["target"])
    whole = "." not in slots["amount"]
    if amount == 0:
        return None
    if pair in _STEPS:
        level = 4 if not whole else 1 if amount <= 99 else 2
    elif pair in _UP and whole:
        level = 3
    elif pair in _LEAPS and whole:
        level = 5
    else:
        return None
    if pair in _UP:
        result, rule = amount / _UP[pair], f"1 {pair[1]} is {_UP[pair]} {pair[0]}: {amount} / {_UP[pair]}"
    else:
        factor = {**_STEPS, **_LEAPS}[pair]
        result, rule = amount * factor, f"1 {pair[0]} is {factor} {pair[1]}: {amount} x {factor}"
    text = f"{result:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return Solution(level, text, f"{rule} = {text}.")


_NAMES_OF_SYMBOLS = {symbol: name for name, symbol in ELEMENTS.items()}
_LOOKUPS = {"symbol": ELEMENTS, "name": _NAMES_OF_SYMBOLS}


def _draw_element(level: int, rng: random.Random) -> Slots:
    wanted = rng.choice(list(_LOOKUPS))
    return {"wanted": wanted, "items": ", ".join(rng.sample(list(_LOOKUPS[wanted]), level))}


def _solve_element(slots: Slots) -> Solution | None:
    items, lookup = slots["items"].split(", "), _LOOKUPS[slots["wanted"]]
    if not set(items) <= set(lookup) or len(set(items)) < len(items) or len(items) > 5:
        return None
    found = [lookup[item] for item in items]
    working = ", ".join(f"{item} is {result}" for item, result in zip(items, found, strict=True))
    return Solution(len(items), ", ".join(found), f"In the periodic table {working}.")


FAMILIES = (
    Family(
        name="century",
        task_type="History",
        phrasings=("Which century is {when} in?", "Which century: {when}?", "Name the century of {when}."),
        slots={"when": r"(?:\d{1,4} years after )?\d{1,4}(?: BC)?"},
        draw=_draw_century,
        solve=_solve_century,
    ),
    Family(
        name="conversion",
        task_type="Physics",
        phrasings=(
            "How many {target} are {amount} {source}?",
            "Convert {amount} {source} to {target}.",
            "{amount} {source} in {target}?",
        ),
        slots={"amount": r"\d{1,3}(?:\.\d)?", "source": "[a-z]{1,2}", "target": "[a-z]{1,2}"},
        draw=_draw_conversion,
        solve=_solve_conversion,
    ),
    Family(
        name="element",
        task_type="Chemistry",
        phrasings=(
            "Chemical {wanted} of {items}?",
            "Give the chemical {wanted}: {items}",
            "What is the chemical {wanted} of {items}?",
            "{items}: which chemical {wanted}?",
        ),
        slots={"wanted": "symbol|name", "items": "[A-Za-z]+(?:, [A-Za-z]+)*"},
        draw=_draw_element,
        solve=_solve_element,
    ),
)
