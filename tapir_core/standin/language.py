"""Families of language: one line of Python to write, mend or run; words to pick, inflect, turn round or translate.

No line of Python is executed.
"""

import random
import re

from tapir_core.standin import family

_SIGNS = {"adds": "+", "subtracts": "-", "multiplies": "*", "divides": "/"}
_FIRST = {
    "adds": "adds {} to x",
    "subtracts": "subtracts {} from x",
    "multiplies": "multiplies x by {}",
    "divides": "divides x by {}",
}
_THEN = {"adds": "adds {}", "subtracts": "subtracts {}", "multiplies": "multiplies by {}", "divides": "divides by {}"}
_STEP = re.compile(r"(adds|subtracts|multiplies|divides) (?:x )?(?:by )?(\d{1,2})(?: to x| from x)?")


def _draw_lambda(level: int, rng: random.Random) -> family.Slots:
    weak, strong = ["adds", "subtracts"], ["multiplies", "divides"]
    groups = {1: [weak + strong], 2: [strong, weak], 3: [weak, strong], 4: [weak, strong, weak], 5: [weak, strong]}
    steps = [(rng.choice(verbs), str(rng.randint(2, 99))) for verbs in groups[level]]
    return {"wish": _wish(steps, conditional=level == 5)}


def _wish(steps: list[tuple[str, str]], *, conditional: bool) -> str:
    (verb, number), *others = steps
    if conditional:
        other_verb, other_number = others[0]
        return f"{_FIRST[verb].format(number)} if x is even, else {_FIRST[other_verb].format(other_number)}"
    return ", then ".join([_FIRST[verb].format(number), *(_THEN[each].format(amount) for each, amount in others)])


def _solve_lambda(slots: family.Slots) -> family.Solution:
    wish = slots["wish"]
    conditional = " if x is even, else " in wish
    steps: list[tuple[str, str]] = _STEP.findall(wish)
    if _wish(steps, conditional=conditional) != wish:
        raise ValueError(f"{wish!r} holds more than steps")
    if conditional:
        even, odd = _expression(steps[:1]), _expression(steps[1:])
        body, level = f"{even} if x % 2 == 0 else {odd}", 5
        comments = [f"# even: {even}", f"# else: {odd}", "# even means x % 2 == 0"]
    else:
        body = _expression(steps)
        level = {1: 1, 2: 3 if "(" in body else 2, 3: 4}[len(steps)]
        comments = [
            f"# {_THEN[verb].format(number)}: {_expression(steps[:place])}"
            for place, (verb, number) in enumerate(steps, start=1)
        ]
    return family.Solution(level, f"lambda x: {body}", "\n".join(comments), traits=tuple(verb for verb, _ in steps))


def _expression(steps: list[tuple[str, str]]) -> str:
    text, loose = "x", False
    for verb, number in steps:
        sign = _SIGNS[verb]
        if loose and sign in "*/":
            text = f"({text})"
        text, loose = f"{text} {sign} {number}", sign in "+-"
    return text


_LINE = re.compile(
    rf"\A(def|dfe|edf) ({family.any_of(family.WORDS.functions)})\(([a-z])(\)?)(:?) "
    r"(return|retrun|reutrn) ([a-z]) ([-+*]) (\d{1,2})\Z"
)
_BUGS = ("colon", "bracket", "keyword", "variable")


def _draw_mend(level: int, rng: random.Random) -> family.Slots:
    bugs = rng.sample(_BUGS, 2) if level == 5 else [_BUGS[level - 1]]
    define, give = "def", "return"
    if "keyword" in bugs:
        define, give = rng.choice([("dfe", give), ("edf", give), (define, "retrun"), (define, "reutrn")])
    argument, other = rng.sample("abknxy", 2)
    bracket, colon = "" if "bracket" in bugs else ")", "" if "colon" in bugs else ":"
    head = f"{define} {rng.choice(family.WORDS.functions)}({argument}{bracket}{colon}"
    variable = other if "variable" in bugs else argument
    return {"line": f"{head} {give} {variable} {rng.choice('+-*')} {rng.randint(2, 99)}"}


def _solve_mend(slots: family.Slots) -> family.Solution:
    [(define, name, argument, bracket, colon, give, variable, sign, number)] = _LINE.findall(slots["line"])
    found = {
        "colon": not colon,
        "bracket": not bracket,
        "keyword": (define, give) != ("def", "return"),
        "variable": variable != argument,
    }
    bugs = [bug for bug in _BUGS if found[bug]]
    misspelt = [f"{word} must be {right}" for word, right in ((define, "def"), (give, "return")) if word != right]
    checks = [
        ", ".join(misspelt) or "def and return are right",
        "bracket is closed" if bracket else "bracket must be closed",
        "colon is there" if colon else "colon must be added",
        f"{variable} is the argument" if variable == argument else f"{variable} must be {argument}",
    ]
    return family.Solution(
        level={1: _BUGS.index(bugs[0]) + 1, 2: 5}[len(bugs)],
        reference=f"def {name}({argument}): return {argument} {sign} {number}",
        working=f"# {'; '.join(checks)}",
        traits=(define == "def", give == "return", bracket, colon, argument == variable, sign),
    )


_JOINED = re.compile(r"'([a-z]+)' \+ '([a-z]+)'")
_INDEXED = re.compile(r"\['([a-z]+)', '([a-z]+)', '([a-z]+)'\]\[([012])\]")
_LETTER = re.compile(r"'([a-z]{4,})'\[(0|1|2|-1)\]")
_LARGEST = re.compile(r"max\((\d{1,2}), (\d{1,2}), (\d{1,2})\) \+ (\d)")
_SORTED = re.compile(r"sorted\((\[\d{1,2}(?:, \d{1,2}){3}\]), reverse=True\)")


def _draw_print(level: int, rng: random.Random) -> family.Slots:
    words = rng.sample(family.WORDS.common, 3)
    numbers = rng.sample(range(1, 100), 4)
    forms = {
        1: f"'{words[0]}' + '{words[1]}'",
        2: f"{words}[{rng.randrange(3)}]",
        3: f"'{words[0]}'[{rng.choice([0, 1, 2, -1])}]",
        4: f"max({', '.join(map(str, numbers[:3]))}) + {rng.randint(1, 9)}",
        5: f"sorted({numbers}, reverse=True)",
    }
    return {"code": f"print({forms[level]})"}


def _solve_print(slots: family.Slots) -> family.Solution:
    inner = slots["code"].removeprefix("print(").removesuffix(")")
    numbers = [int(number) for number in re.findall(r"-?\d+", inner)]
    # The index, or where the largest and the smallest number stand.
    traits = tuple(numbers) if len(numbers) < 2 else (numbers.index(max(numbers)), numbers.index(min(numbers)))
    if match := _JOINED.fullmatch(inner):
        return family.Solution(1, match[1] + match[2], f"First {match[1]}, then {match[2]}, no blank between.", traits)
    if match := _INDEXED.fullmatch(inner):
        index = int(match[4])
        return family.Solution(2, match[index + 1], f"{family.number_items(match.groups()[: index + 1], 0)}.", traits)
    if match := _LETTER.fullmatch(inner):
        index = int(match[2])
        steps = f"{' '.join(match[1])}, the last" if index < 0 else family.number_items(match[1][: index + 1], 0)
        return family.Solution(3, match[1][index], f"{steps}.", traits)
    if match := _LARGEST.fullmatch(inner):
        *given, added = numbers
        total = max(given) + added
        return family.Solution(
            4, str(total), f"{family.keep_largest(given, key=int)} {max(given)} + {added} = {total}.", traits
        )
    if _SORTED.fullmatch(inner):
        ordered, taken = sorted(numbers, reverse=True), []
        for number in ordered:
            numbers.remove(number)
            taken.append(f"largest {number}, left {', '.join(map(str, numbers)) or 'none'}")
        return family.Solution(5, str(ordered), f"{'; '.join(taken)}.", traits)
    raise ValueError(f"{inner!r} is no code that is run here")


_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "last")
_PICK_LENGTHS = (3, 4, 5, 7, 9)
"""Words, by level."""


def _draw_pick(level: int, rng: random.Random) -> family.Slots:
    count = _PICK_LENGTHS[level - 1]
    return {
        "place": rng.choice([*_PLACES[: count - 1], "last"]),
        "words": " ".join(rng.sample(family.WORDS.common, count)),
    }


def _solve_pick(slots: family.Slots) -> family.Solution:
    words, place = slots["words"].split(" "), slots["place"]
    index = len(words) - 1 if place == "last" else _PLACES.index(place)
    counted = family.number_items(words[: index + 1])
    return family.Solution(
        level=_PICK_LENGTHS.index(len(words)) + 1,
        reference=words[index],
        working=f"{counted}, the last." if place == "last" else f"{place} is {index + 1}: {counted}.",
        traits=(place,),
    )


_RULED_NOUNS = family.WORDS.regular_nouns + family.WORDS.sibilant_nouns
_PLURALS = {
    **{noun: ("s", f"{noun}s") for noun in family.WORDS.regular_nouns},
    **{
        noun: ("ies", f"{noun[:-1]}ies") if noun.endswith("y") else ("es", f"{noun}es")
        for noun in family.WORDS.sibilant_nouns
    },
    **{noun: ("irregular", plural) for noun, plural in family.WORDS.irregular_plurals.items()},
}
"""Noun → kind of its plural, and the plural."""

_PLURAL_RULES = {"irregular": "is irregular", "s": "takes s", "es": "ends in a hiss, takes es", "ies": "turns y to ies"}
"""Kind of plural → how it is made, in words."""


def _draw_plural(level: int, rng: random.Random) -> family.Slots:
    if level == 1:
        return {"nouns": rng.choice(family.WORDS.regular_nouns)}
    if level == 2:
        return {"nouns": ", ".join(rng.sample(_RULED_NOUNS, 2))}
    nouns = [rng.choice(list(family.WORDS.irregular_plurals)), *rng.sample(_RULED_NOUNS, level - 2)]
    rng.shuffle(nouns)
    return {"nouns": ", ".join(nouns)}


def _solve_plural(slots: family.Slots) -> family.Solution:
    nouns = slots["nouns"].split(", ")
    plurals = [_PLURALS[noun] for noun in nouns]
    easy = {1: nouns[0] in family.WORDS.regular_nouns, 2: not set(nouns) & set(family.WORDS.irregular_plurals)}.get(
        len(nouns), False
    )
    made = [f"{noun} {_PLURAL_RULES[kind]}: {plural}." for noun, (kind, plural) in zip(nouns, plurals, strict=True)]
    return family.Solution(
        level=len(nouns) if easy else len(nouns) + 1,
        reference=", ".join(plural for _, plural in plurals),
        working=" ".join(made),
        traits=tuple(sorted(kind for kind, _ in plurals)),
    )


_FORMS = {
    1: ("{third}", "is"),
    2: ("{past}", "was"),
    3: ("will {verb}", "will be"),
    4: ("has {past}", "has been"),
    5: ("must not {verb}", "must not be"),
}
"""Level → form of the active verb, and the passive's auxiliary."""
_ACTIVE = re.compile(rf"\A({family.any_of(family.WORDS.names)}) (.+) the ({family.any_of(family.WORDS.objects)})\.\Z")


def _verb_form(level: int, verb: str) -> str:
    third, past = family.WORDS.verbs[verb]
    return _FORMS[level][0].format(verb=verb, third=third, past=past)


def _draw_passive(level: int, rng: random.Random) -> family.Slots:
    verb = rng.choice(list(family.WORDS.verbs))
    name, thing = rng.choice(family.WORDS.names), rng.choice(family.WORDS.objects)
    return {"sentence": f"{name} {_verb_form(level, verb)} the {thing}."}


_OF_FORM = {_verb_form(level, verb): (verb, level) for verb in family.WORDS.verbs for level in _FORMS}


def _solve_passive(slots: family.Slots) -> family.Solution:
    [(name, form, thing)] = _ACTIVE.findall(slots["sentence"])
    verb, level = _OF_FORM[form]
    formed = f"{_FORMS[level][1]} {family.WORDS.verbs[verb][1]}"
    return family.Solution(
        level,
        reference=f"The {thing} {formed} by {name}",
        working=f"First: the {thing}. Then: {form} becomes {formed}. Last: by {name}.",
        # How the participle is spelt; its tense is the level.
        traits=(verb[-1] if verb[-1] in "ey" else "",),
    )


def _solve_translation(slots: family.Slots) -> family.Solution:
    words, column = family.distinct(slots["words"].split(", ")), family.WORDS.languages.index(slots["language"])
    translated = [family.WORDS.translations[word][column] for word in words]
    told = ", ".join(f"{word} is {foreign}" for word, foreign in zip(words, translated, strict=True))
    return family.Solution(
        level=len(words),
        reference=", ".join(translated),
        working=f"In {slots['language']} {told}.",
        # Language, and whether a word has a letter that English lacks.
        traits=(slots["language"], all(map(str.isascii, translated))),
    )


FAMILIES = (
    family.Family(
        name="lambda",
        task_type="Code Generation",
        phrasings=("Write a Python lambda that {wish}.", "Python lambda that {wish}?", "Give a lambda which {wish}."),
        slots={"wish": r"[a-z]+ [a-z0-9 ,]+"},
        draw=_draw_lambda,
        solve=_solve_lambda,
    ),
    family.Family(
        name="mend",
        task_type="Code Debug",
        phrasings=("Fix this Python: {line}", "Debug: {line}", "Correct the error: {line}"),
        slots={"line": r"(?:def|dfe|edf) [^\n]+"},
        draw=_draw_mend,
        solve=_solve_mend,
    ),
    family.Family(
        name="print",
        task_type="Computer Science",
        phrasings=("What does {code} print?", "Output of {code}?", "Run {code} and give the output."),
        slots={"code": r"print\([^\n]+\)"},
        draw=_draw_print,
        solve=_solve_print,
    ),
    family.Family(
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
    family.Family(
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
    family.Family(
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
    family.Family(
        name="translation",
        task_type="Multilingual",
        phrasings=(
            "Translate to {language}: {words}",
            "{words} in {language}?",
            "Give the {language} for {words}.",
            "Say in {language}: {words}",
        ),
        slots={"language": "|".join(family.WORDS.languages), "words": "[a-z]+(?:, [a-z]+)*"},
        draw=lambda level, rng: {
            "language": rng.choice(family.WORDS.languages),
            "words": ", ".join(rng.sample(list(family.WORDS.translations), level)),
        },
        solve=_solve_translation,
    ),
)
