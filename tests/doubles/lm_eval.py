"""An lm-evaluation-harness that answers within milliseconds."""

import sys
from pathlib import Path

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
