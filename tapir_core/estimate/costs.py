"""What the work of a run takes under one scenario: tokens a call and their price. Pure.

Limits: cached prompts are not counted as cheaper, and attempts that fail are not counted.
"""

from collections.abc import Sequence
from dataclasses import replace

from tapir_core.calls import Role
from tapir_core.config import RunConfig
from tapir_core.estimate.assumptions import BACKBONE_SHARE, KNOWN_POWER, Scenario, priors_of
from tapir_core.estimate.evidence import Evidence
from tapir_core.estimate.hours import call_seconds, training_seconds
from tapir_core.estimate.line import ASKS, Asked, Charger, Line
from tapir_core.estimate.workload import Pool, workload
from tapir_core.paths import BACKBONE

__all__ = ["cost_lines"]


def cost_lines(
    config: RunConfig, pool: Pool, evidence: Evidence, scenario: Scenario, chargers: Sequence[Charger]
) -> list[Line]:
    """The whole run under one scenario; of ``chargers`` the first is the teacher, the others are all asked to judge."""
    teacher, *judges = chargers
    asked: dict[Asked, list[Charger | None]] = {"teacher": [teacher], "judge": [*judges], "student": [None]}
    shown_roles: tuple[Role, ...] = ("teach", "answer")
    shown = {role: _length(config, evidence, scenario, role, teacher) for role in shown_roles}
    lines = []
    for work in workload(config, pool, scenario, shown["answer"]):
        if work.role is None:
            lines.append(Line(work, "", seconds=training_seconds(work, evidence, scenario)))
            continue
        prompt = evidence.prompts.of(work.role, shown)
        for charger in asked[ASKS[work.role]]:
            completion = _length(config, evidence, scenario, work.role, charger or teacher)
            if work.round == BACKBONE:
                completion = BACKBONE_SHARE * config.student.sampling.max_tokens
            line = Line(work, ASKS[work.role], charger, prompt, completion)
            lines.append(replace(line, seconds=call_seconds(config, line, evidence, scenario)))
    return lines


def _length(config: RunConfig, evidence: Evidence, scenario: Scenario, role: Role, charger: Charger) -> float:
    """Completion tokens of one reply, at most what the configuration allows; of the student's by the teacher's."""
    most: dict[Role, int] = {
        "label": config.teacher.labelling.max_tokens,
        "teach": config.teacher.answering.max_tokens,
        "answer": config.student.sampling.max_tokens,
        "judge": config.judge.sampling.max_tokens,
        "expand": config.teacher.expanding.max_tokens,
        "refine": config.teacher.refining.max_tokens,
    }
    # S_0 learns to answer as the teacher does, so the student's answers are as long as the teacher's.
    known = evidence.lengths.get(("teach" if role == "answer" else role, charger.voice))
    prior = priors_of(charger.endpoint).completion_tokens[role]
    assumed = prior + (evidence.prompts.instruction if role == "expand" else 0.0)
    tokens = known.tokens * scenario.length**KNOWN_POWER if known else assumed * scenario.length
    return min(float(most[role]), tokens)
