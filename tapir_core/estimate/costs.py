"""What the work of a run takes under one scenario: tokens a call and their price. Pure.

Limits: cached prompts are not counted as cheaper, and attempts that fail are not counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tapir_core.calls import Role
from tapir_core.config import RunConfig
from tapir_core.estimate.assumptions import BACKBONE_SHARE, KNOWN_POWER, Scenario, priors_of
from tapir_core.estimate.benchmarks import benchmark_work
from tapir_core.estimate.evidence import Evidence, KnownLength
from tapir_core.estimate.hours import call_seconds, training_seconds
from tapir_core.estimate.line import ASKS, Asked, Charger, Line, benchmark_chargers
from tapir_core.estimate.workload import Pool, workload
from tapir_core.paths import BACKBONE

__all__ = ["cost_lines"]


def cost_lines(
    config: RunConfig, pool: Pool, evidence: Evidence, scenario: Scenario, chargers: Sequence[Charger]
) -> list[Line]:
    """The whole run under one scenario; of ``chargers`` the first is the teacher, the others are all asked to judge."""
    teacher, *judges = chargers
    asked: dict[Asked, list[Charger | None]] = {"teacher": [teacher], "judge": [*judges], "student": [None]}
    longest = config.student.sampling.max_tokens
    shown: dict[Role, float] = {
        "teach": _length(config, evidence, scenario, "teach", teacher),
        "answer": _answer_length(evidence, scenario, teacher, None, longest),
    }
    lines = []
    for work in workload(config, pool, scenario, shown["answer"]):
        if work.role is None:
            lines.append(Line(work, "", seconds=training_seconds(work, evidence, scenario)))
            continue
        prompt = evidence.prompts.of(work.role, shown)
        for charger in asked[ASKS[work.role]]:
            if charger is None:
                completion = _answer_length(evidence, scenario, teacher, work.round, longest)
            else:
                completion = _length(config, evidence, scenario, work.role, charger)
            line = Line(work, ASKS[work.role], charger, prompt, completion)
            lines.append(replace(line, seconds=call_seconds(config, line, evidence, scenario)))
    return [*lines, *_benchmark_lines(config, evidence, scenario, chargers)]


def _benchmark_lines(
    config: RunConfig, evidence: Evidence, scenario: Scenario, chargers: Sequence[Charger]
) -> Iterator[Line]:
    """Answers to the benchmarks of each round, and the judgments on them."""
    teacher, judge, *_ = chargers
    judges = benchmark_chargers(config, judge)
    for work in benchmark_work(config, evidence.benchmarks, scenario):
        assert work.benchmark is not None
        size, settings = evidence.benchmarks[work.benchmark], config.evaluation.asked[work.benchmark]
        longest = settings.drawn(config.student.sampling).max_tokens
        answer = _answer_length(evidence, scenario, teacher, work.round, longest)
        if work.role == "answer":
            prompt = size.answer_prompt_tokens + size.earlier_answers * answer
            line = Line(work, "student", None, prompt, answer)
        else:
            judged = config.evaluation.judged[work.benchmark]
            charger, known = judges[work.benchmark], evidence.judgments.get(work.benchmark)
            reply = _tokens(known, priors_of(charger.endpoint).completion_tokens["benchmark"], scenario)
            prompt = size.judge_prompt_tokens + size.judged_answers * answer
            line = Line(work, "judge", charger, prompt, min(float(judged.sampling.max_tokens), reply))
        yield replace(line, seconds=call_seconds(config, line, evidence, scenario))


def _length(config: RunConfig, evidence: Evidence, scenario: Scenario, role: Role, charger: Charger) -> float:
    """Completion tokens of one reply, at most what the configuration allows."""
    most: dict[Role, int] = {
        "label": config.teacher.labelling.max_tokens,
        "teach": config.teacher.answering.max_tokens,
        "judge": config.judge.sampling.max_tokens,
        "expand": config.teacher.expanding.max_tokens,
        "refine": config.teacher.refining.max_tokens,
    }
    prior = priors_of(charger.endpoint).completion_tokens[role]
    assumed = prior + (evidence.prompts.instruction if role == "expand" else 0.0)
    return min(float(most[role]), _tokens(evidence.lengths.get((role, charger.voice)), assumed, scenario))


def _answer_length(
    evidence: Evidence, scenario: Scenario, teacher: Charger, number: int | None, max_tokens: int
) -> float:
    """Completion tokens of one answer of the student after round ``number``, at most ``max_tokens``."""
    if number == BACKBONE:
        return BACKBONE_SHARE * max_tokens
    # S_0 learns to answer as the teacher does, so the student's answers are as long as the teacher's.
    known = evidence.lengths.get(("teach", teacher.voice))
    return min(float(max_tokens), _tokens(known, priors_of(teacher.endpoint).completion_tokens["answer"], scenario))


def _tokens(known: KnownLength | None, assumed: float, scenario: Scenario) -> float:
    return known.tokens * scenario.length**KNOWN_POWER if known else assumed * scenario.length
