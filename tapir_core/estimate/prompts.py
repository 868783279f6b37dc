"""The requests of a run before it runs: keys of those that are known already, prompt tokens of all, from a sample.

Limits: a sample's mean stands for the pool, and new instructions are taken to be as long as those of the pool. Answers
that stand in a prompt are counted by their expected length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapir_core.calls import Message, Request, Role
from tapir_core.config import RunConfig, Sampling
from tapir_core.curriculum import refinement_prompt_name, render_expansion, render_label, render_refinement
from tapir_core.estimate.tokens import MESSAGE_TOKENS, mean_tokens
from tapir_core.estimate.workload import expected_shares
from tapir_core.judging import mode_of
from tapir_core.prompts import Prompt

__all__ = ["Instruction", "PromptTokens", "label_request", "measure_prompts", "teach_request"]


_ANSWERED_BY: Mapping[str, Role] = {"teacher": "teach", "student": "answer"}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of the pool."""

    text: str
    system: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Tokens of a prompt on average, by role, without the answers that stand in it."""

    fixed: Mapping[Role, float]
    instruction: float
    """Tokens of an instruction alone."""
    answers: Mapping[Role, tuple[Role, ...]]
    """Whose answers stand in the prompt of a role; pointwise, the teacher's stands for the student's too."""

    def of(self, role: Role, completion_tokens: Mapping[Role, float]) -> float:
        """Tokens of a prompt whose answers are as long as ``completion_tokens`` says."""
        return self.fixed[role] + sum(completion_tokens[each] for each in self.answers.get(role, ()))


def label_request(config: RunConfig, prompt: Prompt, instruction: Instruction) -> Request:
    """The request for the task type of an instruction, as stage `label` makes it."""
    text = render_label(prompt, instruction.text)
    return _request(config, "label", (Message("user", text),), config.teacher.labelling)


def teach_request(config: RunConfig, instruction: Instruction) -> Request:
    """The request for the plain answer to an instruction, as stage `teach` makes it."""
    return _request(config, "teach", _chat(instruction), config.teacher.answering)


def measure_prompts(
    config: RunConfig,
    prompts: Mapping[str, Prompt],
    sample: Sequence[Instruction],
    natural: Mapping[str, float] | None = None,
) -> PromptTokens:
    """Render every prompt of the run on a sample of its pool and count; ``natural`` are the pool's shares, if known."""
    shares = expected_shares(config, natural, skew=0)
    judge, mode = config.judge, mode_of(config.judge)
    judged = [mode.render(prompts[judge.prompt], _unanswered(each), mode.places(judge)[0]) for each in sample]
    chats = [sum((mean_tokens([message.content]) for message in _chat(each)), 0.0) for each in sample]
    asked = sum(chats) / len(chats) if chats else 0.0
    likeliest = max(shares, key=lambda name: shares[name])
    labels = [render_label(prompts["label"], each.text) for each in sample]
    seeds = [render_expansion(prompts["expand"], each.text, likeliest) for each in sample]
    systems = sum(1 for each in sample if each.system) / len(sample) if sample else 0.0
    fixed: dict[Role, float] = {
        "label": mean_tokens(labels) + MESSAGE_TOKENS,
        "teach": asked + MESSAGE_TOKENS * (1 + systems),
        "answer": asked + MESSAGE_TOKENS * (1 + systems),
        "judge": mean_tokens(judged) + MESSAGE_TOKENS,
        "expand": mean_tokens(seeds) + MESSAGE_TOKENS,
        "refine": _refinement_tokens(prompts, sample, shares) + MESSAGE_TOKENS,
    }
    shown: dict[Role, tuple[Role, ...]] = {
        "judge": tuple(_ANSWERED_BY[each] for each in mode.shown),
        "refine": ("teach",),
    }
    return PromptTokens(fixed, mean_tokens(each.text for each in sample), shown)


def _unanswered(each: Instruction) -> dict[str, str | None]:
    asked = {"instruction": each.text, "system": each.system, "reference": each.reference}
    return {**asked, "teacher": "", "student": ""}


def _refinement_tokens(
    prompts: Mapping[str, Prompt], sample: Sequence[Instruction], shares: Mapping[str, float]
) -> float:
    """The prompts of the three families, by what the target shares want of each."""
    by_prompt: dict[str, float] = {}
    for task_type, share in shares.items():
        name = refinement_prompt_name(task_type)
        by_prompt[name] = by_prompt.get(name, 0.0) + share
    return sum(
        share * mean_tokens(render_refinement(prompts[name], each.text, each.system, "") for each in sample)
        for name, share in by_prompt.items()
    )


def _chat(instruction: Instruction) -> tuple[Message, ...]:
    user = Message("user", instruction.text)
    return (Message("system", instruction.system), user) if instruction.system else (user,)


def _request(config: RunConfig, role: Role, messages: tuple[Message, ...], sampling: Sampling) -> Request:
    voice = config.teacher.endpoint.answers_as("teacher")
    return Request(role, messages, voice.model, voice.identity, sampling)
