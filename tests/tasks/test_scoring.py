"""A check of a scorer passes a model that says the same of a token whenever it is asked, and fails one that does not.

The model is a table of eight tokens: what comes next depends on the last two.
"""

import random
import re
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest

from tapir_core.calls import Answer, Failure, Message, Outcome, Request, Scored, Tokens
from tapir_core.config import ModelIdentity
from tasks.engines.training.pair import Compared
from tasks.scoring import Scorer, check_lead, check_own, check_places, check_steady

SIZE = 8
ASKED = [(Message("user", f"question {number}"),) for number in range(20)]


class Toy:
    """Draws and scores as a server does. Faults: those of the issue, and a server that names too few or is unsteady."""

    def __init__(
        self, seed: int = 1, *, temperature: float = 1.0, shift: int = 0, other_template: bool = False,
        most: int = SIZE, noise: float = 0.0, fails: bool = False, fails_every: int = 0,
    ) -> None:  # fmt: skip
        table = np.random.default_rng(seed).normal(0, 2, (SIZE, SIZE, SIZE))
        self._table = table - np.log(np.exp(table).sum(-1, keepdims=True))
        self._temperature, self._shift, self._other = temperature, shift, other_template
        self._most, self._noise, self._fails, self._calls = most, noise, fails, count()
        self._every = fails_every

    def places(self, ids: Sequence[int], begin: int) -> list[np.ndarray[Any, Any]]:
        return [self._table[ids[place - 2], ids[place - 1]] for place in range(begin, len(ids))]

    def ask(self, requests: Sequence[Request]) -> list[Outcome]:
        every = 1 if self._fails else self._every
        return [
            self._fail() if every and place % every == 0 else self._reply(each)
            for place, each in enumerate(requests, 1)
        ]

    def _fail(self) -> Failure:
        return Failure("server", "away")

    def _reply(self, request: Request) -> Answer:
        tokens = self._score(request.scored) if request.scored else self._draw(request)
        return Answer("", "stop", 2, len(tokens.ids), tokens=tokens)

    def _draw(self, request: Request) -> Tokens:
        rng = random.Random(request.messages[-1].content)
        prompt, ids, said = [rng.randrange(SIZE) for _ in range(3)], list[int](), list[float]()
        for _ in range(30):
            place = self.places([*prompt, *ids, 0], len(prompt) + len(ids))[0]
            drawn = np.exp(place / self._temperature)
            token = rng.choices(range(SIZE), weights=drawn.tolist())[0]
            # What a server returns is of the distribution that it drew from.
            said.append(float(np.log(drawn / drawn.sum())[token]))
            ids.append(token)
        return Tokens(tuple(prompt), tuple(ids), tuple(said))

    def _score(self, scored: Scored) -> Tokens:
        prompt = (*scored.prompt[:-2], scored.prompt[-1], scored.prompt[0]) if self._other else scored.prompt
        places = self.places([*prompt, *scored.answer], len(prompt))
        places = [*places[self._shift :], *places[: self._shift]]
        moved = self._noise * (next(self._calls) % 2)
        said = tuple(float(place[token]) + moved for place, token in zip(places, scored.answer, strict=True))
        k = min(scored.top_k, self._most)
        top = tuple(tuple((int(token), float(place[token])) for token in place.argsort()[::-1][:k]) for place in places)
        return Tokens(scored.prompt, scored.answer, said, top if scored.top_k else ())


def scorer(toy: Toy) -> Scorer:
    return Scorer(toy.ask, ModelIdentity("toy", "1"))


def drawn(toy: Toy) -> list[Tokens]:
    return [each for each in scorer(toy).tokens([scorer(toy).drawing(each, 30) for each in ASKED]) if each]


def answers(top_k: int = 0) -> list[Scored]:
    return [Scored(each.prompt, each.ids, top_k) for each in drawn(Toy())]


def refused(found: Compared | None, says: str) -> None:
    assert found
    assert re.search(says, found.found), found
    assert found.remedy


def test_what_scores_as_it_samples_passes_every_check() -> None:
    toy, asked = Toy(), answers(4)
    found = [
        check_own(scorer(toy), drawn(toy)),
        check_places(scorer(toy), asked),
        check_steady(scorer(toy), asked[0]),
        check_lead(scorer(toy).word_on(asked), scorer(Toy(2)).word_on(asked)),
    ]
    assert [each and each.remedy for each in found] == [""] * 4
    assert [each and each.found for each in found][:2] == [
        "0.000 nats apart for half of 600 tokens, 0.000 for one in a hundred (at most 0.02 and 0.3)",
        "4 of each of 600 places, where 4 are asked for",
    ]
    passed(check_places(scorer(toy), answers()))


def passed(found: Compared | None) -> None:
    assert found
    assert found.remedy == ""


@pytest.mark.parametrize(
    "fault",
    [{"shift": 1}, {"other_template": True}, {"temperature": 0.7}],
    ids=["ids shifted by one", "another template", "temperature 0.7"],
)
def test_scores_of_other_tokens_are_refused(fault: dict[str, Any]) -> None:
    refused(
        check_own(scorer(Toy(**fault)), drawn(Toy(**fault))),
        "otherwise than it sampled them: .* 0.02 and 0.3.*its tokens",
    )


def test_a_server_that_names_too_few_is_refused() -> None:
    refused(check_places(scorer(Toy(most=3)), answers(4)), "3 of each of 600 places, where 4 are asked for")


def test_a_scorer_that_says_another_thing_each_time_is_refused() -> None:
    refused(check_steady(scorer(Toy(noise=0.06)), answers()[0]), r"0.060 nats apart .* \(at most 0.05 and 0.3\)")
    passed(check_steady(scorer(Toy(noise=0.04)), answers()[0]))


def test_a_request_that_fails_shows_no_fault_of_the_model() -> None:
    silent = scorer(Toy(fails=True))
    assert check_own(silent, drawn(Toy())) is None
    assert check_places(silent, answers(4)) is None
    assert check_steady(silent, answers()[0]) is None
    assert check_lead(silent.word_on(answers()), scorer(Toy()).word_on(answers())) is None
    now_and_then = scorer(Toy(fails_every=3))
    passed(check_own(now_and_then, drawn(Toy())))
    passed(check_places(now_and_then, answers(4)))
    assert check_steady(now_and_then, answers()[0]) is None


def test_a_teacher_that_finds_its_answers_no_likelier_than_the_student_does_has_nothing_to_teach() -> None:
    asked, toy = answers(), scorer(Toy())
    refused(check_lead(toy.word_on(asked), toy.word_on(asked)), "no likelier to it than to the student: -")
    refused(check_lead(scorer(Toy(2)).word_on(asked), toy.word_on(asked)), "of 20 answers")


def test_two_runs_share_the_scores_of_the_same_tokens_by_the_same_teacher_and_no_others() -> None:
    one, again = (Scorer(Toy().ask, ModelIdentity("toy", "1"), run) for run in ("one", "again"))
    other = Scorer(Toy().ask, ModelIdentity("toy", "2"), "one")
    scored = Scored((1, 2), (3, 4), 8)
    assert one.scoring(scored).key == again.scoring(scored).key
    others = [Scored((1, 2), (3, 5), 8), Scored((1,), (2, 3, 4), 8), Scored((1, 2), (3, 4))]
    asked = [*map(one.scoring, others), other.scoring(scored), one.scoring(scored, 1)]
    assert len({one.scoring(scored).key, *(each.key for each in asked)}) == 6
