"""Families about words: pick one by place, put into the plural, into the passive, into another language."""

import random
import re

from tapir_core.standin.families.family import Family, Slots, Solution
from tapir_core.standin.families.lexicon import (
    IRREGULAR_PLURALS,
    LANGUAGES,
    NAMES,
    OBJECTS,
    REGULAR_NOUNS,
    SIBILANT_NOUNS,
    TRANSLATIONS,
    VERBS,
    WORDS,
)

__all__ = ["FAMILIES"]

_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "last")
_PICK_LENGTHS = {1: 3, 2: 4, 3: 5, 4: 7, 5: 9}


def _draw_pick(level: int, rng: random.Random) -> Slots:
    count = _PICK_LENGTHS[level]
    return {"place": rng.choice([*_PLACES[: count - 1], "last"]), "words": " ".join(rng.sample(WORDS, count))}


def _solve_pick(slots: Slots) -> Solution | None:
    words, place = slots["words"].split(" "), slots["place"]
    level = next((level for level, count in _PICK_LENGTHS.items() if count == len(words)), None)
    index = len(words) - 1 if place == "last" else _PLACES.index(place)
    if level is None or index >= len(words):
        return None
    counted = ", ".join(f"{number} {word}" for number, word in enumerate(words[: index + 1], start=1))
    return Solution(level, words[index], f"{counted}.")


def _plural(noun: str) -> str | None:
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun in SIBILANT_NOUNS:
        return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es"
    return f"{noun}s" if noun in REGULAR_NOUNS else None


def _draw_plural(level: int, rng: random.Random) -> Slots:
    if level == 1:
        return {"nouns": rng.choice(REGULAR_NOUNS)}
    if level == 2:
        return {"nouns": ", ".join(rng.sample(REGULAR_NOUNS + SIBILANT_NOUNS, 2))}
    nouns = [rng.choice(list(IRREGULAR_PLURALS)), *rng.sample(REGULAR_NOUNS + SIBILANT_NOUNS, level - 2)]
    rng.shuffle(nouns)
    return {"nouns": ", ".join(nouns)}


def _solve_plural(slots: Slots) -> Solution | None:
    nouns = slots["nouns"].split(", ")
    plurals = [plural for plural in map(_plural, nouns) if plural]
    if len(plurals) < len(nouns) or len(nouns) > 4:
        return None
    easy = {1: nouns[0] in REGULAR_NOUNS, 2: not set(nouns) & set(IRREGULAR_PLURALS)}.get(len(nouns), False)
    level = len(nouns) if easy else len(nouns) + 1
    working = ", ".join(f"one {noun}, two {plural}" for noun, plural in zip(nouns, plurals, strict=True))
    return Solution(level, ", ".join(plurals), f"{working}.")


_AUXILIARIES = {1: "is", 2: "was", 3: "will be", 4: "has been", 5: "must not be"}
_ACTIVE = re.compile(r"([A-Z][a-z]+) (?:(will|has|must not) )?([a-z]+) the ([a-z]+)\.")


def _verb_form(level: int, verb: str) -> str:
    third, past = VERBS[verb]
    return {1: third, 2: past, 3: f"will {verb}", 4: f"has {past}", 5: f"must not {verb}"}[level]


def _draw_passive(level: int, rng: random.Random) -> Slots:
    verb = rng.choice(list(VERBS))
    return {"sentence": f"{rng.choice(NAMES)} {_verb_form(level, verb)} the {rng.choice(OBJECTS)}."}


def _solve_passive(slots: Slots) -> Solution | None:
    match = _ACTIVE.fullmatch(slots["sentence"])
    if match is None or match[1] not in NAMES or match[4] not in OBJECTS:
        return None
    form = f"{match[2]} {match[3]}" if match[2] else match[3]
    verb, level = next(
        ((verb, level) for verb in VERBS for level in _AUXILIARIES if _verb_form(level, verb) == form), ("", 0)
    )
    if not level:
        return None
    passive = f"The {match[4]} {_AUXILIARIES[level]} {VERBS[verb][1]} by {match[1]}"
    return Solution(level, passive, f"The {match[4]} comes first, {match[1]} comes last.")


def _draw_translation(level: int, rng: random.Random) -> Slots:
    return {"language": rng.choice(LANGUAGES), "words": ", ".join(rng.sample(list(TRANSLATIONS), level))}


def _solve_translation(slots: Slots) -> Solution | None:
    words = slots["words"].split(", ")
    if not set(words) <= set(TRANSLATIONS) or len(set(words)) < len(words) or len(words) > 5:
        return None
    column = LANGUAGES.index(slots["language"])
    translated = [TRANSLATIONS[word][column] for word in words]
    working = ", ".join(f"{word} is {foreign}" for word, foreign in zip(words, translated, strict=True))
    return Solution(len(words), ", ".join(translated), f"In {slots['language']} {working}.")


FAMILIES = (
    Family(
        name="pick",
        task_type="Others",
        phrasings=(
            "Name the {place} word: {words}",
            "Give the {place} word of {words}.",
            "Which word is {place}: {words}?",
        ),
        slots={"place": "|".join(_PLACES), "words": "[a-z]+(?: [a-z]+)+"},
        draw=_draw_pick,
        solve=_solve_pick,
    ),
    Family(
        name="plural",
        task_type="Grammar",
        phrasings=(
            "Plural of {nouns}?",
            "Make plural: {nouns}",
            "Give the plural of {nouns}.",
            "{nouns} in the plural?",
        ),
        slots={"nouns": "[a-z]+(?:, [a-z]+)*"},
        draw=_draw_plural,
        solve=_solve_plural,
    ),
    Family(
        name="passive",
        task_type="Paraphrase",
        phrasings=(
            "Passive voice: {sentence}",
            "Rewrite in the passive: {sentence}",
            "Say in passive form: {sentence}",
        ),
        slots={"sentence": r"[A-Z][a-z]+(?: [a-z]+)+\."},
        draw=_draw_passive,
        solve=_solve_passive,
    ),
    Family(
        name="translation",
        task_type="Multilingual",
        phrasings=(
            "Translate to {language}: {words}",
            "{words} in {language}?",
            "Give the {language} for {words}.",
            "Say in {language}: {words}",
        ),
        slots={"language": "|".join(LANGUAGES), "words": "[a-z]+(?:, [a-z]+)*"},
        draw=_draw_translation,
        solve=_solve_translation,
    ),
)
