"""What each arm trains on, prompt by prompt, with the seconds of a device that this costs before it is trained.

A trial takes from an arm until its seconds, or its tokens, are those of the on-policy arm.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.trial.model import Element, Row, shuffled

if TYPE_CHECKING:
    from benchmarks.trial.material import Material

Bill = Iterator[tuple[float, list[Element]]]
"""Seconds, what they bought; of a prompt, or of several that are chosen among."""

_CHOSEN_AMONG = 8
"""Prompts that the pass rate draws half of."""


def fresh(of: "Material", seed: int) -> Bill:
    """Plain fine-tuning goes on: the teacher's answers to prompts that are new."""
    for place in of.places(seed):
        answer = of.answer(place)
        yield of.teaching(answer), [(answer,)]


def epochs(of: "Material", seed: int) -> Bill:
    """The answers of S_0 once more, as often as there is time."""
    for again in itertools.count():
        yield from ((0.0, [each]) for each in shuffled([(row,) for row in of.first()], 1000 * seed + again))


def right(of: "Material", seed: int) -> Bill:
    """As `fresh`, only what is marked right."""
    for place in of.places(seed):
        answer = of.answer(place)
        yield of.teaching(answer), [(answer,)] if answer.right else []


def own(of: "Material", seed: int) -> Bill:
    """The student's own answers that are marked right (rejection sampling)."""
    for place in of.places(seed):
        rollouts = of.rollouts(place)
        yield sum(map(of.rolling, rollouts)), [(row,) for row in rollouts if row.right]


def mfd(of: "Material", seed: int) -> Bill:
    """The teacher's right answers where the student's is wrong: the paper's choice, with marks for verdicts."""
    for place in of.places(seed):
        answer, rollout = of.answer(place), of.rollout(place, 0)
        hard = answer.right and not rollout.right
        yield of.teaching(answer) + of.rolling(rollout), [(answer,)] if hard else []


def topk(of: "Material", seed: int) -> Bill:
    """The teacher's likeliest tokens at each token of its answers."""
    for place in of.places(seed):
        answer = of.answer_with_top(place)
        yield of.teaching(answer) + of.scoring(answer, top=True), [(answer,)]


def prefer(of: "Material", seed: int) -> Bill:
    """The teacher's right answer over the student's wrong one."""
    for place in of.places(seed):
        answer, rollout = of.answer(place), of.rollout(place, 0)
        seconds = of.teaching(answer) + of.rolling(rollout)
        if answer.right and not rollout.right:
            referred = of.referred(place)
            yield seconds + of.referring(referred), [(referred, rollout)]
        else:
            yield seconds, []


def policy(of: "Material", seed: int) -> Bill:
    """The student's rollouts, weighted by how much likelier the teacher finds each token."""
    for place in of.places(seed):
        row = of.scored(place, 0)
        yield of.rolling(row) + of.scoring(row), [(row,)]


def forward_kl(of: "Material", seed: int) -> Bill:
    """The teacher's likeliest tokens at each token of the student's rollouts."""
    for place in of.places(seed):
        row = of.scored(place, 0, top=True)
        yield of.rolling(row) + of.scoring(row, top=True), [(row,)]


def third(of: "Material", seed: int) -> Bill:
    """As `policy`: of half as many prompts as the on-policy arm has the first third of the tokens, then whole ones."""
    for number, place in enumerate(of.places(seed)):
        row = of.scored(place, 0)
        if number < of.pair.sizes.prompts // 2:
            few = -(-len(row.answer) // 3)
            row = row._replace(answer=row.answer[:few], q=row.q[:few], t=row.t[:few])
        yield of.rolling(row) + of.scoring(row), [(row,)]


def pass_rate(of: "Material", seed: int) -> Bill:
    """As `policy`, on half of the prompts that the teacher answers rightly, drawn by how often the student fails."""
    rng, places = random.Random(seed), of.places(seed)
    while some := list(itertools.islice(places, _CHOSEN_AMONG)):
        rollouts = {place: of.rollouts(place) for place in some}
        seconds = sum(of.rolling(row) for each in rollouts.values() for row in each)
        seconds += sum(of.teaching(of.answer(place)) for place in some)
        taught = [place for place in some if of.answer(place).right]
        failing = {place: 1 - _pass_rate(rollouts[place]) for place in taught}
        drawn = sorted(taught, key=lambda place: rng.random() ** (1 / failing[place]), reverse=True)
        kept = [
            of.scored(place, sample) for place in drawn[: len(taught) // 2] for sample in range(len(rollouts[place]))
        ]
        yield seconds + sum(map(of.scoring, kept)), [(row,) for row in kept]


def _pass_rate(rollouts: list[Row]) -> float:
    return (sum(row.right for row in rollouts) + 1) / (len(rollouts) + 2)


class Arm(NamedTuple):
    """How a student goes on from S_0."""

    bill: Callable[["Material", int], Bill]
    loss: str
    in_order: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is a way of plain fine-tuning: the best of these on dev is what others are set against."""
        return self.bill in (fresh, epochs, right, own)


ARMS = {
    "fresh": Arm(fresh, "imitate"),
    "right": Arm(right, "imitate"),
    "epochs": Arm(epochs, "imitate"),
    "own": Arm(own, "imitate"),
    "forward_kl": Arm(forward_kl, "forward_kl"),
    "policy": Arm(policy, "policy"),
    "pass_rate": Arm(pass_rate, "policy"),
    "prefer": Arm(prefer, "prefer"),
    "topk": Arm(topk, "forward_kl"),
    "third": Arm(third, "policy", in_order=True),
    "mfd": Arm(mfd, "imitate"),
}
"""`average` is no training: the mean of the weights at the quarters of `fresh`."""

ON_POLICY = "forward_kl"
"""The on-policy arm, whose seconds and tokens all others have."""
ON_SECOND = ("fresh", ON_POLICY)
"""The arms that go on from the untouched student too, where that is a second start."""


def best_rate(results: Sequence[Mapping[str, Any]]) -> float:
    """The learning rate of an arm that is best on dev, among those that most seeds have."""
    dev: dict[float, list[float]] = {}
    for each in results:
        right = each["dev"]["right"]
        dev.setdefault(each["rate"], []).append(right.count("1") / len(right))
    most = max(map(len, dev.values()))
    return max((rate for rate, of in dev.items() if len(of) == most), key=lambda rate: fmean(dev[rate]))
