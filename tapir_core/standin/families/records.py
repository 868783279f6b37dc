"""Families that read or write small records: JSON, a melody backwards, the winner of a match, a food chain."""

import json
import random
from itertools import pairwise

from tapir_core.standin.families.family import LEVELS, Family, Slots, Solution
from tapir_core.standin.families.lexicon import CITIES, COLOURS, NAMES, PETS, TEAMS, TROPHIC_TIERS

__all__ = ["FAMILIES"]

_TEXT_FIELDS = {"name": NAMES, "city": CITIES, "colour": COLOURS, "pet": PETS}
_NUMBER_FIELDS = ("age", "score", "room")
_FIELDS = (*_TEXT_FIELDS, *_NUMBER_FIELDS)


def _draw_record(level: int, rng: random.Random) -> Slots:
    fields = rng.sample(_FIELDS, level)
    values = [
        str(rng.randint(2, 99)) if field in _NUMBER_FIELDS else rng.choice(_TEXT_FIELDS[field]) for field in fields
    ]
    return {"fields": ", ".join(f"{field} {value}" for field, value in zip(fields, values, strict=True))}


def _solve_record(slots: Slots) -> Solution | None:
    pairs = [pair.split(" ") for pair in slots["fields"].split(", ")]
    record: dict[str, str | int] = {}
    for field, value in pairs:
        if field in _NUMBER_FIELDS and value.isdigit():
            record[field] = int(value)
        elif value in _TEXT_FIELDS.get(field, ()):
            record[field] = value
    if not len(record) == len(pairs) <= 5:
        return None
    quoted = [field for field in record if field in _TEXT_FIELDS]
    hint = f"Quotes around {', '.join(quoted)}." if quoted else "Numbers need no quotes."
    return Solution(len(pairs), json.dumps(record), hint)


def _draw_melody(level: int, rng: random.Random) -> Slots:
    return {"notes": " ".join(rng.choice("CDEFGAB") for _ in range(level + 2))}


def _solve_melody(slots: Slots) -> Solution | None:
    notes = slots["notes"].split(" ")
    level = len(notes) - 2
    if level not in LEVELS:
        return None
    return Solution(
        level, " ".join(reversed(notes)), f"It ends on {notes[-1]}, so {notes[-1]} comes first and {notes[0]} last."
    )


_MATCH_SHAPES = {1: (2, 1), 2: (3, 1), 3: (4, 1), 4: (2, 2), 5: (3, 2)}
"""Level → teams and points each."""
_MATCH_LEVELS = {shape: level for level, shape in _MATCH_SHAPES.items()}


def _draw_match(level: int, rng: random.Random) -> Slots:
    count, legs = _MATCH_SHAPES[level]
    while True:
        points = [[rng.randint(0, 20) for _ in range(legs)] for _ in range(count)]
        totals = [sum(each) for each in points]
        if totals.count(max(totals)) == 1:
            break
    teams = rng.sample(TEAMS, count)
    return {
        "scores": ", ".join(f"{team} {' and '.join(map(str, each))}" for team, each in zip(teams, points, strict=True))
    }


def _solve_match(slots: Slots) -> Solution | None:
    totals: dict[str, int] = {}
    entries = [entry.replace(" and ", " ").split(" ") for entry in slots["scores"].split(", ")]
    for team, *points in entries:
        totals[team] = sum(map(int, points))
    legs = {len(entry) - 1 for entry in entries}
    level = _MATCH_LEVELS.get((len(entries), max(legs))) if len(legs) == 1 else None
    best = max(totals.values())
    winners = [team for team, total in totals.items() if total == best]
    if level is None or not set(totals) <= set(TEAMS) or len(totals) < len(entries) or len(winners) > 1:
        return None
    standing = ", ".join(f"{team} {totals[team]}" for team in sorted(totals, key=lambda team: -totals[team]))
    return Solution(level, winners[0], f"Most first: {standing}.")


def _draw_chain(level: int, rng: random.Random) -> Slots:
    chain = [rng.choice(tier) for tier in TROPHIC_TIERS[: {1: 3, 2: 4, 3: 4, 4: 5, 5: 5}[level]]]
    form = {3: "is eaten by the {}", 5: "eats the eater of the {}"}.get(level, "eats the {}")
    candidates = {3: chain[1:], 5: chain[:-2]}.get(level, chain[:-1])
    return {"chain": " - ".join(chain), "asked": form.format(rng.choice(candidates))}


def _solve_chain(slots: Slots) -> Solution | None:
    chain, asked = slots["chain"].split(" - "), slots["asked"]
    form, animal = asked.rsplit(" ", 1)
    offset = {"eats the": 1, "is eaten by the": -1, "eats the eater of the": 2}[form]
    level = {(3, 1): 1, (4, 1): 2, (4, -1): 3, (5, 1): 4, (5, 2): 5}.get((len(chain), offset))
    known = all(each in tier for each, tier in zip(chain, TROPHIC_TIERS, strict=False))
    if level is None or not known or animal not in chain:
        return None
    place = chain.index(animal) + offset
    if not 0 <= place < len(chain):
        return None
    low, high = sorted((place, place - offset))
    eaten = chain[low : high + 1]
    meals = ", ".join(f"{upper} eats {lower}" for lower, upper in pairwise(eaten))
    return Solution(level, chain[place], f"In this chain {meals}.")


FAMILIES = (
    Family(
        name="record",
        task_type="Complex Format",
        phrasings=("As JSON: {fields}", "Write as JSON: {fields}.", "JSON object for {fields}?"),
        slots={"fields": r"[a-z]+ \w+(?:, [a-z]+ \w+)*"},
        draw=_draw_record,
        solve=_solve_record,
    ),
    Family(
        name="melody",
        task_type="Music",
        phrasings=("Play backwards: {notes}", "Retrograde of {notes}?", "Reverse the melody {notes}."),
        slots={"notes": "[A-G](?: [A-G])+"},
        draw=_draw_melody,
        solve=_solve_melody,
    ),
    Family(
        name="match",
        task_type="Sport",
        phrasings=("Who won: {scores}?", "Name the winner: {scores}", "Result: {scores}. Winner?"),
        slots={"scores": r"[A-Z][a-z]+ \d{1,2}(?: and \d{1,2})?(?:, [A-Z][a-z]+ \d{1,2}(?: and \d{1,2})?)+"},
        draw=_draw_match,
        solve=_solve_match,
    ),
    Family(
        name="chain",
        task_type="Ecology",
        phrasings=(
            "Food chain {chain}: what {asked}?",
            "In {chain}, what {asked}?",
            "What {asked} in the chain {chain}?",
        ),
        slots={
            "chain": "[a-z]+(?: - [a-z]+)+",
            "asked": "(?:eats the|is eaten by the|eats the eater of the) [a-z]+",
        },
        draw=_draw_chain,
        solve=_solve_chain,
    ),
)
