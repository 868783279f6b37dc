"""One task of lm-evaluation-harness: the questions it asks, or what it makes of given answers. No model is asked here.

Run by `lm_eval.py` as ``PYTHON lm_eval_main.py JOB RESULT`` with the interpreter of ``.venv-lm-eval``, which holds the
harness and nothing of ours: so this imports neither. Prompts, filters, marks and averages are the harness's own; a
language model of ours stands where it expects one, notes what is asked, or gives back what was answered.
"""

import contextlib
import json
import math
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

Json = Any

_QUESTIONS, _EXAMPLES = "questions", "examples"
"""What the two files are called in the job, and as splits of the task's data set."""


class Refused(Exception):
    """Raised when this cannot be asked here; said to the user without a traceback."""


class _Asked(Exception):
    """Raised when everything that the harness asks was noted."""


class _Answers(LM):
    """A language model whose answers are there, or are still to be given."""

    def __init__(self, given: list[tuple[str, str]] | None) -> None:
        super().__init__()
        self.asked: list[Instance] = []
        self._given = given

    def generate_until(self, requests: list[Instance], **_: Json) -> list[str]:
        """The given answers, in the order of the requests."""
        if self._given is None:
            self.asked = list(requests)
            raise _Asked
        if [request.args[0] for request in requests] != [prompt for prompt, _ in self._given]:
            raise RuntimeError("the harness asks something else than what was answered")
        return [
            _until(answer, request.args[1].get("until"))
            for request, (_, answer) in zip(requests, self._given, strict=True)
        ]

    def loglikelihood(self, requests: list[Instance], **_: Json) -> list[tuple[float, bool]]:
        """Not to be had from a chat."""
        raise Refused("it asks for log-likelihoods, which a chat does not give; take its variant that generates")

    loglikelihood_rolling = loglikelihood


def do_job(job: Json) -> Json:
    """What the task is, with its questions, or with its marks where the job holds answers.

    Raises:
        Refused: the harness has no such task, or it cannot be asked in a chat.
    """
    task = _load(job)
    return {
        "harness": metadata.version("lm_eval"),
        "task_version": str(task.VERSION),
        "sampling": _sampling(task.config.generation_kwargs or {}),
        **({"items": _items(task)} if job["answers"] is None else _marks(task, job["answers"])),
    }


def _load(job: Json) -> Json:
    name, manager = job["task"], TaskManager(include_path=job["include_path"])
    if name not in manager.all_subtasks:
        raise Refused("the harness has no such task (a group or a tag is none); `lm_eval ls subtasks` lists them")
    # Each of its splits is one of the two files, whatever it calls them.
    data = {each: Dataset.from_list(job[each]) for each in (_QUESTIONS, _EXAMPLES) if job[each] is not None}
    split = _EXAMPLES if _EXAMPLES in data else None
    changed = {
        "custom_dataset": lambda **_: data,
        "dataset_kwargs": None,
        "test_split": _QUESTIONS,
        "validation_split": None,
        "training_split": split,
        "fewshot_split": split,
    }
    # The one form in which the harness takes a task of its own with changes.
    [task] = manager.load([{"group": "asked", "task": [{"task": name, **changed}]}])["tasks"].values()
    if task.OUTPUT_TYPE != "generate_until":
        raise Refused(f"its output_type is {task.OUTPUT_TYPE}, which a chat does not give; take one that generates")
    if (task.config.repeats or 1) > 1:
        raise Refused(f"it asks each question {task.config.repeats} times; give it `repeats: 1` in a YAML of your own")
    shots = task.config.num_fewshot or 0
    if shots and split is None and not (task.config.fewshot_config and task.fewshot_cfg.samples):
        raise Refused(f"it shows {shots} solved examples before each question; give their file as `examples`")
    return task


def _items(task: Json) -> list[Json]:
    """Question, prompt and target, in the order of the file."""
    model = _Answers(None)
    with contextlib.suppress(_Asked):
        simple_evaluate(model=model, tasks=[task], bootstrap_iters=0)
    ids = [instance.doc_id for instance in model.asked]
    if len(set(ids)) < len(ids):
        raise Refused("it asks several things of one question, of which a chat answers one")
    return [[str(each.doc_id), each.args[0], str(task.doc_to_target(each.doc))] for each in model.asked]


def _marks(task: Json, answers: list[Json]) -> Json:
    """Every metric that is a mean of shares over questions, with the marks of each question; the others by name."""
    if not answers:
        return {"metrics": [], "left_out": []}
    results = simple_evaluate(
        model=_Answers([(prompt, answer) for _, prompt, answer in answers]),
        tasks=[task],
        samples={task.task_name: [int(place) for place, _, _ in answers]},
        bootstrap_iters=0,
    )
    figures, metrics, left_out = results["results"][task.task_name], [], []
    samples = results["samples"][task.task_name]
    names = dict.fromkeys((metric, each["filter"]) for each in samples for metric in each["metrics"])
    for metric, found_by in names:
        told = metric if found_by == "none" else f"{metric} ({found_by})"
        marks = [(each["doc_id"], _shares(each[metric])) for each in samples if each["filter"] == found_by]
        if _is_mean([share for _, each in marks for share in each or [math.nan]], figures.get(f"{metric},{found_by}")):
            metrics.append([told, [[str(place), each] for place, each in marks]])
        else:
            left_out.append(told)
    return {"metrics": metrics, "left_out": left_out}


def _shares(mark: Json) -> list[float] | None:
    """The marks of one question; nothing where they are no numbers."""
    try:
        return [float(each) for each in (mark if isinstance(mark, list | tuple) else [mark])]
    except (TypeError, ValueError):
        return None


def _is_mean(shares: list[float], figure: Json) -> bool:
    """Whether the harness's figure is the mean of these, each of them between 0 and 1."""
    return (
        all(0 <= each <= 1 for each in shares)
        and isinstance(figure, int | float)
        and math.isclose(math.fsum(shares) / len(shares), figure, abs_tol=1e-9)
    )


def _sampling(settings: Json) -> Json:
    """What of the task's own settings says how an answer is drawn; nothing where it says nothing."""
    greedy = not settings.get("do_sample", settings.get("temperature"))
    return {
        "temperature": 0.0 if greedy else settings.get("temperature"),
        "max_tokens": settings.get("max_gen_toks", settings.get("max_tokens")),
    }


def _until(answer: str, stops: Json) -> str:
    """The answer as a server gives it that stops there."""
    ends = [
        place
        for stop in ([stops] if isinstance(stops, str) else stops or [])
        if stop and (place := answer.find(stop)) >= 0
    ]
    return answer[: min(ends)] if ends else answer


def _main(job: Path, result: Path) -> None:
    # What IFEval's checker fetches goes into the environment, if it can be written, and not into a home folder.
    folder = os.environ.setdefault("NLTK_DATA", str(Path(sys.prefix, "nltk_data")))
    with contextlib.suppress(OSError):
        os.mkdir(folder)
    with contextlib.suppress(ImportError):
        # It draws by chance, so that an answer could be marked in two ways.
        from langdetect import DetectorFactory

        DetectorFactory.seed = 0
    try:
        made = do_job(json.loads(job.read_text()))
    except Refused as refused:
        made = {"refused": str(refused)}
    result.write_text(json.dumps(made))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
