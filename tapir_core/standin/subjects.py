"""Families of single subjects: JSON, music, sport, ecology; history, physics, chemistry."""

import json
import random
import re
from decimal import Decimal
from itertools import pairwise

from tapir_core.standin import family

_TEXT_FIELDS = {
    "name": family.WORDS.names,
    "city": family.WORDS.cities,
    "colour": family.WORDS.colours,
    "pet": family.WORDS.pets,
}
_NUMBER_FIELDS = ("age", "score", "room")
_FIELDS = (*_TEXT_FIELDS, *_NUMBER_FIELDS)
_FIELD = family.any_of(
    [
        *(f"{name} {family.any_of(words)}" for name, words in _TEXT_FIELDS.items()),
        rf"{family.any_of(_NUMBER_FIELDS)} \d+",
    ]
)


def _draw_record(level: int, rng: random.Random) -> family.Slots:
    fields = rng.sample(_FIELDS, level)
    values = [
        str(rng.randint(2, 99)) if field in _NUMBER_FIELDS else rng.choice(_TEXT_FIELDS[field]) for field in fields
    ]
    return {"fields": ", ".join(f"{field} {value}" for field, value in zip(fields, values, strict=True))}


def _solve_record(slots: family.Slots) -> family.Solution:
    pairs = [pair.split(" ") for pair in slots["fields"].split(", ")]
    fields = family.distinct([field for field, _ in pairs])
    record = {field: int(value) if field in _NUMBER_FIELDS else value for field, value in pairs}
    kinds = [f"{field} is a {'number, bare' if field in _NUMBER_FIELDS else 'word, quoted'}" for field in fields]
    return family.Solution(
        level=len(pairs),
        reference=json.dumps(record),
        working=f"{'; '.join(kinds)}.",
        traits=tuple(field in _NUMBER_FIELDS for field in fields),
    )


def _solve_melody(slots: family.Slots) -> family.Solution:
    notes = slots["notes"].split(" ")
    backwards = ", ".join(f"{place} {notes[place - 1]}" for place in range(len(notes), 0, -1))
    return family.Solution(
        len(notes) - 2,
        " ".join(reversed(notes)),
        f"{family.number_items(notes)}. Backwards: {backwards}.",
        traits=(len(set(notes)), notes[0] == notes[-1]),
    )


_MATCH_SHAPES = {1: (2, 1), 2: (3, 1), 3: (4, 1), 4: (2, 2), 5: (3, 2)}
"""Level → teams and points each."""
_SCORE = rf"{family.any_of(family.WORDS.teams)} \d{{1,2}}(?: and \d{{1,2}})?"
_MATCH_LEVELS = {shape: level for level, shape in _MATCH_SHAPES.items()}


def _draw_match(level: int, rng: random.Random) -> family.Slots:
    count, legs = _MATCH_SHAPES[level]
    while True:
        points = [[rng.randint(0, 20) for _ in range(legs)] for _ in range(count)]
        totals = [sum(each) for each in points]
        if totals.count(max(totals)) == 1:
            break
    teams = rng.sample(family.WORDS.teams, count)
    return {
        "scores": ", ".join(f"{team} {' and '.join(map(str, each))}" for team, each in zip(teams, points, strict=True))
    }


def _solve_match(slots: family.Slots) -> family.Solution:
    entries = [entry.replace(" and ", " ").split(" ") for entry in slots["scores"].split(", ")]
    teams = family.distinct([team for team, *_ in entries])
    totals = {team: sum(map(int, points)) for team, *points in entries}
    [legs] = {len(entry) - 1 for entry in entries}
    [winner] = [team for team, total in totals.items() if total == max(totals.values())]
    second, first = sorted(totals.values())[-2:]
    added = [f"{team} {' + '.join(points)} = {totals[team]}." for team, *points in entries if legs > 1]
    compared = family.keep_largest(teams, key=totals.__getitem__, say=lambda team: f"{team} {totals[team]}")
    return family.Solution(
        level=_MATCH_LEVELS[len(entries), legs],
        reference=winner,
        working=" ".join([*added, compared]),
        # Place of the winner, and whether another is close.
        traits=(teams.index(winner), first - second <= 2),
    )


def _draw_chain(level: int, rng: random.Random) -> family.Slots:
    chain = [rng.choice(tier) for tier in family.WORDS.trophic_tiers[: {1: 3, 2: 4, 3: 4, 4: 5, 5: 5}[level]]]
    form = {3: "is eaten by the {}", 5: "eats the eater of the {}"}.get(level, "eats the {}")
    candidates = {3: chain[1:], 5: chain[:-2]}.get(level, chain[:-1])
    return {"chain": " - ".join(chain), "asked": form.format(rng.choice(candidates))}


def _solve_chain(slots: family.Slots) -> family.Solution:
    chain, asked = slots["chain"].split(" - "), slots["asked"]
    form, animal = asked.rsplit(" ", 1)
    offset = {"eats the": 1, "is eaten by the": -1, "eats the eater of the": 2}[form]
    level = {(3, 1): 1, (4, 1): 2, (4, -1): 3, (5, 1): 4, (5, 2): 5}[len(chain), offset]
    place = chain.index(animal) + offset
    known = all(each in tier for each, tier in zip(chain, family.WORDS.trophic_tiers, strict=False))
    if not known or not 0 <= place < len(chain):
        raise ValueError(f"{slots['chain']!r} does not say what {asked}")
    # Read from the start until the animal, or who eats it, has been met.
    meals = ", ".join(f"{upper} eats {lower}" for lower, upper in pairwise(chain[: max(place, place - offset) + 1]))
    return family.Solution(level, chain[place], f"{meals}.", traits=(place - offset,))


_YEAR = re.compile(r"\A(?:(\d{1,4}) years after )?(\d{1,4})( BC)?\Z")


def _draw_century(level: int, rng: random.Random) -> family.Slots:
    if level in (1, 2):
        return {"when": str(rng.randint(1000, 1999) if level == 1 else rng.randint(100, 999))}
    if level == 3:
        return {"when": f"{rng.randint(20, 300)} years after {rng.randint(100, 1699)}"}
    before = rng.randint(10, 999)
    return {"when": f"{before} BC" if level == 4 else f"{before + rng.randint(10, 900)} years after {before} BC"}


def _solve_century(slots: family.Slots) -> family.Solution:
    [(after, year_text, bc)] = _YEAR.findall(slots["when"])
    offset, year, before = int(after or 0), int(year_text), bool(bc)
    level = (5 if after else 4) if before else 3 if after else 1 if year >= 1000 else 2
    if year == 0 or (after and offset == 0) or (before and after and offset < year) or (not before and year < 100):
        raise ValueError(f"{slots['when']!r} lies in no century that is asked for")
    steps = []
    if level == 5:
        steps = [f"{offset} - {year} = {offset - year}, no year 0: {offset - year + 1}."]
        year, before = offset - year + 1, False  # 1 BC is followed by 1 AD: there is no year 0
    elif offset:
        steps = [f"{', '.join(family.add_up([year, *family.split_places(offset)]))}."]
        year += offset
    hundreds, rest = divmod(year, 100)
    steps.append(f"Full hundreds {hundreds}, left {f'{rest}, {hundreds} + 1 = {hundreds + 1}' if rest else 'none'}.")
    reference = f"{_ordinal(hundreds + bool(rest))}{' BC' if before else ''}"
    # Whether a century ends with the year, and the ending of its ordinal.
    return family.Solution(level, reference, " ".join(steps), traits=(not rest, re.sub(r"\d+", "", reference)))


def _ordinal(number: int) -> str:
    return f"{number}" + ("th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th"))


_STEPS = {
    ("km", "m"): 1000,
    ("m", "cm"): 100,
    ("cm", "mm"): 10,
    ("kg", "g"): 1000,
    ("t", "kg"): 1000,
    ("l", "ml"): 1000,
}
_LEAPS = {
    (each[0], each[-1]): each
    for each in (("km", "m", "cm"), ("m", "cm", "mm"), ("t", "kg", "g"), ("km", "m", "cm", "mm"))
}
"""Units further apart → all units from one to the other."""
_UP = [(small, large) for large, small in _STEPS]


def _draw_conversion(level: int, rng: random.Random) -> family.Slots:
    amount = {2: str(rng.randint(100, 999)), 4: f"{rng.randint(1, 99)}.{rng.randint(1, 9)}"}.get(
        level, str(rng.randint(2, 99))
    )
    source, target = rng.choice(list({3: _UP, 5: _LEAPS}.get(level, _STEPS)))
    return {"amount": amount, "source": source, "target": target}


def _solve_conversion(slots: family.Slots) -> family.Solution:
    amount, pair = Decimal(slots["amount"]), (slots["source"], slots["target"])
    is_up, whole = pair in _UP, "." not in slots["amount"]
    level = 3 if is_up else 5 if pair in _LEAPS else 4 if not whole else 1 if amount <= 99 else 2
    if amount == 0 or (level in (3, 5) and not whole):
        raise ValueError(f"{slots['amount']} {pair[0]} are not asked for")
    steps: list[str] = []
    for large, small in [pair[::-1]] if is_up else pairwise(_LEAPS.get(pair, pair)):
        factor = _STEPS[large, small]
        # A place for each zero of the factor; the first unit's own amount comes before.
        shifted = [amount.scaleb(-place if is_up else place) for place in range(1 if steps else 0, len(str(factor)))]
        steps.append(f"1 {large} is {factor} {small}: {', '.join(map(_plain, shifted))}.")
        amount = shifted[-1]
    return family.Solution(level, _plain(amount), " ".join(steps), traits=pair)


def _plain(number: Decimal) -> str:
    """Without an exponent, and without zeros at the end of a fraction."""
    return f"{number.normalize():f}"


_LOOKUPS = {"symbol": family.WORDS.elements, "name": {symbol: name for name, symbol in family.WORDS.elements.items()}}


def _draw_element(level: int, rng: random.Random) -> family.Slots:
    wanted = rng.choice(list(_LOOKUPS))
    return {"wanted": wanted, "items": ", ".join(rng.sample(list(_LOOKUPS[wanted]), level))}


def _solve_element(slots: family.Slots) -> family.Solution:
    items, lookup = family.distinct(slots["items"].split(", ")), _LOOKUPS[slots["wanted"]]
    found = [lookup[item] for item in items]
    working = ", ".join(f"{item} is {result}" for item, result in zip(items, found, strict=True))
    pairs = [sorted(pair, key=len) for pair in zip(items, found, strict=True)]
    return family.Solution(
        level=len(items),
        reference=", ".join(found),
        working=f"{working}.",
        # Symbol or name, and how many symbols do not begin the English name.
        traits=(slots["wanted"], sum(not name.startswith(symbol.casefold()) for symbol, name in pairs)),
    )


FAMILIES = (
    family.Family(
        name="record",
        task_type="Complex Format",
        phrasings=("As JSON: {fields}", "Write as JSON: {fields}.", "JSON object for {fields}?"),
        slots={"fields": f"{_FIELD}(?:, {_FIELD})*"},
        draw=_draw_record,
        solve=_solve_record,
    ),
    family.Family(
        name="melody",
        task_type="Music",
        phrasings=("Play backwards: {notes}", "Retrograde of {notes}?", "Reverse the melody {notes}."),
        slots={"notes": "[A-G](?: [A-G])+"},
        draw=lambda level, rng: {"notes": " ".join(rng.choice("CDEFGAB") for _ in range(level + 2))},
        solve=_solve_melody,
    ),
    family.Family(
        name="match",
        task_type="Sport",
        phrasings=("Who won: {scores}?", "Name the winner: {scores}", "Result: {scores}. Winner?"),
        slots={"scores": f"{_SCORE}(?:, {_SCORE})+"},
        draw=_draw_match,
        solve=_solve_match,
    ),
    family.Family(
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
    family.Family(
        name="century",
        task_type="History",
        phrasings=("Which century is {when} in?", "Which century: {when}?", "Name the century of {when}."),
        slots={"when": r"(?:\d{1,4} years after )?\d{1,4}(?: BC)?"},
        draw=_draw_century,
        solve=_solve_century,
    ),
    family.Family(
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
    family.Family(
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
