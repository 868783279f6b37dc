"""Whether scores can be trusted: what a scorer is asked before anything is learned from what it says.

Scores are log-probabilities of tokens that another model sampled. Each check takes real answers, a few; `tapir doctor
--pair … --try` makes them all of two models, a run those of its stage in `rollout` and `score`. What needs no weights
is compared before (`tasks.engines.training.pair`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, median

from tapir_core.calls import Answer, Message, Outcome, Request, Scored, Tokens
from tapir_core.config import ModelIdentity, Sampling
from tasks.engines.training.launch import MEDIAN_APART, WORST_APART
from tasks.engines.training.pair import Compared

ANSWERS = 20
"""Answers that a check takes at most."""
_REPEATS, _MOST_SPREAD = 5, 0.05
"""How often one answer is scored, and how far the scores of half of its tokens may lie apart, in nats."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A model that draws answers and scores those of others, token by token."""

    ask: Callable[[Sequence[Request]], Sequence[Outcome]]
    who: ModelIdentity
    run: str = ""

    def drawing(self, asked: tuple[Message, ...], max_tokens: int, sample: int = 0) -> Request:
        """The request for an answer drawn from the whole distribution."""
        sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=max_tokens)
        who = self.who.model, self.who.identity
        return Request("rollout", asked, *who, sampling, sample_index=sample, run=self.run, with_tokens=True)

    def scoring(self, answer: Scored, repeat: int = 0) -> Request:
        """The request for the log-probabilities of an answer."""
        who, one = (self.who.model, self.who.identity), Sampling(max_tokens=1)
        return Request("score", (), *who, one, sample_index=repeat, run=self.run, scored=answer)

    def tokens(self, requests: Sequence[Request]) -> list[Tokens | None]:
        """What comes of requests for tokens; None of one that failed."""
        return tokens_of(self.ask(requests))

    def word_on(self, answers: Sequence[Scored]) -> list[Tokens | None]:
        """The log-probabilities of answers."""
        return self.tokens([self.scoring(each) for each in answers])


def tokens_of(outcomes: Sequence[Outcome | None]) -> list[Tokens | None]:
    """The tokens that came; None of a request that failed, or has no outcome."""
    return [each.tokens if isinstance(each, Answer) else None for each in outcomes]


def check_own(scorer: Scorer, drawn: Sequence[Tokens]) -> Compared | None:
    """Whether a model says of its own answers what it said when it drew them.

    It does not where ids are shifted, where another chat template renders the prompt, at another temperature. None, as
    of every check here: what it takes did not come.
    """
    apart = [
        abs(now - then)
        for one, other in zip(drawn, scorer.word_on([Scored(each.prompt, each.ids) for each in drawn]), strict=True)
        if other is not None
        for then, now in zip(one.log_probs, other.log_probs, strict=True)
    ]
    if not apart:
        return None
    said, is_far = _in_words(apart, MEDIAN_APART)
    if is_far:
        said = f"it scores its own answers otherwise than it sampled them: {said}, so scores say nothing of its tokens"
    remedy = "let one server answer, that samples and renders as it scores"
    return Compared("scores of its own", said, remedy if is_far else "")


def _in_words(apart: Sequence[float], most: float) -> tuple[str, bool]:
    """How far the words on tokens lie apart, and whether that is too far."""
    in_order = sorted(apart)
    half, worst = median(in_order), in_order[len(in_order) * 99 // 100]
    said = (
        f"{half:.3f} nats apart for half of {len(in_order):,} tokens, {worst:.3f} for one in a hundred (at most "
        f"{most:g} and {WORST_APART:g})"
    )
    return said, half > most or worst > WORST_APART


def check_places(scorer: Scorer, answers: Sequence[Scored]) -> Compared | None:
    """Whether it names as many likeliest tokens of each place as are asked for."""
    wanted = max((each.top_k for each in answers), default=0)
    found = [each for each in scorer.word_on(answers) if each is not None]
    if not found:
        return None
    places = [len(place) for each in found for place in each.top]
    least, scored = min(places, default=0), sum(len(each.ids) for each in found)
    said = f"{least} of each of {scored:,} places, where {wanted} are asked for" if wanted else "none is asked for"
    return Compared(
        "likeliest tokens", said, f"raise --max-logprobs of its server to {wanted}" if least < wanted else ""
    )


def check_steady(scorer: Scorer, answer: Scored) -> Compared | None:
    """Whether it says the same when it is asked again.

    A few tokens may lie further apart: one step of bf16 at a logit of 20 is 0.125.
    """
    found = [each for each in scorer.tokens([scorer.scoring(answer, at) for at in range(1, _REPEATS + 1)]) if each]
    if len(found) < _REPEATS:
        return None
    said, is_far = _in_words(
        [max(each) - min(each) for each in zip(*(one.log_probs for one in found), strict=True)], _MOST_SPREAD
    )
    remedy = "serve it in one precision, by one engine, and without quantisation"
    return Compared("repeated scores", said, remedy if is_far else "")


def check_lead(teacher: Sequence[Tokens | None], student: Sequence[Tokens | None]) -> Compared | None:
    """Whether the teacher finds its own answers likelier than the student does; if not, it has nothing to teach.

    Both are words on the same answers.
    """
    both = [(one.log_probs, other.log_probs) for one, other in zip(teacher, student, strict=True) if one and other]
    if not both:
        return None
    means = [fmean(chain.from_iterable(each)) for each in zip(*both, strict=True)]
    said = f"{means[0]:.3f} nats a token under the teacher, {means[1]:.3f} under the student, of {len(both)} answers"
    if means[0] > means[1]:
        return Compared("lead", said)
    differs = f"its own answers are no likelier to it than to the student: {said}"
    return Compared("lead", differs, "take a better teacher, or one whose answers these are")
