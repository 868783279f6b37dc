"""Stand-ins for what tasks follow beyond this process; for tests."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tasks.follow_training import State, Training, lease_token

__all__ = ["ScriptedTrainings", "make_fake_harness"]

_HARNESS = """\
import json, sys

if sys.argv[1] == "-c":
    print("0.0-fake")
    sys.exit()
job, result = (open(name, mode) for name, mode in zip(sys.argv[3:], "rw"))
job = json.load(job)
if job["task"] == "refused":
    json.dump({"refused": "the harness has no such task"}, result)
    sys.exit()
if job["task"] == "broken":
    sys.exit("loading the task\\nKeyError: 'answer'")
said = {"harness": "0.0-fake", "task_version": "1.0", "sampling": {"temperature": 0.0, "max_tokens": 64}}
asked = job["questions"]
if job["answers"] is None:
    said["items"] = [[str(place), each["prompt"], each["answer"]] for place, each in enumerate(asked)]
else:
    given = [(question, answer.split(), asked[int(question)]["answer"]) for question, _, answer in job["answers"]]
    whole = [[question, [float(words == [wanted])]] for question, words, wanted in given]
    words = [[question, [float(each == wanted) for each in words]] for question, words, wanted in given]
    said["metrics"] = [["exact", whole], ["words", words]] if given else []
    said["left_out"] = ["bleu"]
json.dump(said, result)
"""


@dataclass
class ScriptedTrainings:
    """Attempts whose states are written down beforehand (a `TrainingRuns`); asking for more is an error.

    A script may be a generator: what it does between two states happens between two looks.
    """

    scripts: list[Iterable[State]]
    """The states of each attempt, the first one as it is found or started."""
    in_container: bool = False
    asked: list[int] = field(default_factory=list)
    declared: list[tuple[str, State]] = field(default_factory=list)
    """Attempt and state, in the order in which they were set."""
    _states: dict[str, Iterator[State]] = field(default_factory=dict)

    def attempt(self, number: int) -> Training:
        """The attempt, in the first state of its script."""
        assert number <= len(self.scripts), f"no script for attempt {number}"
        self.asked.append(number)
        self._states[str(number)] = iter(self.scripts[number - 1])
        name, token = f"attempt-{number}", self.token(number)
        return self.look(Training(str(number), name, "SCHEDULED", "", token, self.in_container))

    def look(self, training: Training) -> Training:
        """The attempt in the next state of its script; a final state stays."""
        if training.has_ended:
            return training
        state = next(self._states[training.id])
        return replace(training, state=state, told=state.capitalize())

    def declare(self, training: Training, state: State, why: str) -> Training:
        """The attempt in that state, from now on."""
        self.declared.append((training.name, state))
        return replace(training, state=state, told=f"{state.capitalize()}: {why}")

    @staticmethod
    def token(number: int) -> str:
        """What the attempt writes into its lease."""
        return lease_token(str(number), 1)


def make_fake_harness(folder: Path) -> Path:
    """An interpreter that answers as one with lm-evaluation-harness would, within milliseconds; no program but this.

    Its one kind of question has `prompt` and `answer`. Two metrics: whether the response is the answer, and the same of
    each of its words; a third is left out. The task `refused` is none, `broken` fails.
    """
    code, python = folder / "harness.py", folder / "python"
    code.write_text(_HARNESS)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{code}" "$@"\n')
    python.chmod(0o755)
    return python
