"""Does mean t − q of a rollout tell right answers from wrong ones of the same question? Rules in README.md beside this.

    .venv-vllm/bin/python -m benchmarks.on_policy.signal STUDENT TEACHER GSM8K_TRAIN.jsonl FOLDER

Three steps, each in pieces of ten questions kept in FOLDER, so that what is killed goes on: rollouts, the teacher's
scores, the student's own scores of the first 20. `--show` prints the figures of what is there.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FIRST, QUESTIONS, SAMPLES, MOST_TOKENS, PIECE = 5080, 200, 4, 512, 10
ASK = "{question}\n\nThink step by step. End with a line `Answer: ` and the number."
_STATED, _NUMBER = re.compile(r"answer:\s*\$?(-?[\d,]*\.?\d+)", re.IGNORECASE), re.compile(r"-?[\d,]*\.?\d+")


def batched(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def result_of(text: str) -> float | None:
    """The number after the last ``Answer:``, else the last number."""
    found = _STATED.findall(text) or _NUMBER.findall(text)
    try:
        return float(found[-1].replace(",", "")) if found else None
    except ValueError:
        return None


def questions(file: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()[FIRST : FIRST + QUESTIONS]]
    return [{"text": row["question"], "result": result_of(row["answer"].partition("####")[2])} for row in rows]


def engine_of(model: Path) -> Any:
    from vllm import LLM

    return LLM(str(model), dtype="bfloat16", max_model_len=1024, max_num_seqs=40, seed=1, disable_log_stats=True)


def roll_out(engine: Any, asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rollouts with their token ids and q."""
    from vllm import SamplingParams

    chats = [[{"role": "user", "content": ASK.format(question=each["text"])}] for each in asked]
    settings = SamplingParams(n=SAMPLES, temperature=1.0, top_p=1.0, top_k=0, max_tokens=MOST_TOKENS, logprobs=0)
    made = []
    for of, found in zip(asked, engine.chat(chats, settings, use_tqdm=False), strict=True):
        for each in found.outputs:
            q = [step[token].logprob for token, step in zip(each.token_ids, each.logprobs, strict=True)]
            right = result_of(each.text) == of["result"]
            one = {"prompt": found.prompt_token_ids, "ids": list(each.token_ids), "q": q, "right": right}
            made.append({**one, "ended": each.finish_reason == "stop", "question": of["text"][:40]})
    return made


def score(engine: Any, rollouts: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Log-probability of every token of each rollout, from one prefill."""
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": [*each["prompt"], *each["ids"]]} for each in rollouts]
    found = engine.generate(prompts, SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    return [
        [
            step[token].logprob
            for token, step in zip(each["ids"], got.prompt_logprobs[len(each["prompt"]) :], strict=True)
        ]
        for each, got in zip(rollouts, found, strict=True)
    ]


def auc(rollouts: Sequence[tuple[str, bool, float]]) -> tuple[float, int]:
    """Within questions, over all pairs (right, wrong), with the number of pairs."""
    wins, pairs = 0.0, 0
    by_question: dict[str, list[tuple[bool, float]]] = {}
    for question, right, value in rollouts:
        by_question.setdefault(question, []).append((right, value))
    for of in by_question.values():
        for good in (value for right, value in of if right):
            for bad in (value for right, value in of if not right):
                wins, pairs = wins + (good > bad) + 0.5 * (good == bad), pairs + 1
    return wins / max(1, pairs), pairs


def _pieces(folder: Path, step: str) -> Iterator[Path]:
    return (folder / f"{step}_{number:02}.json" for number in range(QUESTIONS // PIECE))


def work(given: argparse.Namespace) -> None:
    given.folder.mkdir(parents=True, exist_ok=True)
    asked = batched(questions(given.questions), PIECE)
    lacking = [
        (file, of) for file, of in zip(_pieces(given.folder, "rollouts"), asked, strict=True) if not file.exists()
    ]
    student = engine_of(given.student) if lacking or not (given.folder / "own.json").exists() else None
    for file, of in lacking:
        file.write_text(json.dumps(roll_out(student, of)))
        print(file, flush=True)
    if student is not None:
        first = json.loads(next(_pieces(given.folder, "rollouts")).read_text())[:20]
        (given.folder / "own.json").write_text(json.dumps(score(student, first)))
        return  # one engine a process: start again for the teacher
    teacher = engine_of(given.teacher)
    for rollouts, file in zip(_pieces(given.folder, "rollouts"), _pieces(given.folder, "scores"), strict=True):
        if not file.exists():
            file.write_text(json.dumps(score(teacher, json.loads(rollouts.read_text()))))
            print(file, flush=True)


def show(folder: Path) -> dict[str, Any]:
    """The figures of what is scored."""
    done = [
        (of, values)
        for rollouts, scores in zip(_pieces(folder, "rollouts"), _pieces(folder, "scores"), strict=True)
        if scores.exists()
        for of, values in zip(json.loads(rollouts.read_text()), json.loads(scores.read_text()), strict=True)
    ]
    gaps = [[t - q for t, q in zip(values, of["q"], strict=True)] for of, values in done]
    kept = [(of, gap) for (of, _), gap in zip(done, gaps, strict=True) if gap]

    def figure(value: Any, which: Any = lambda _: True) -> dict[str, Any]:
        rows = [(of["question"], of["right"], value(gap)) for of, gap in kept if which(of)]
        names, rng = sorted({name for name, *_ in rows}), random.Random(1)
        by = {name: [row for row in rows if row[0] == name] for name in names}
        drawn = []
        for _ in range(2000):
            again = [
                (f"{name} {place}", *rest)
                for place, name in enumerate(rng.choices(names, k=len(names)))
                for _, *rest in by[name]
            ]
            drawn.append(auc(again)[0])
        drawn.sort()
        found, pairs = auc(rows)
        return {"auc": round(found, 3), "low": round(drawn[100], 3), "high": round(drawn[1899], 3), "pairs": pairs}

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    own = json.loads((folder / "own.json").read_text())
    first = json.loads(next(_pieces(folder, "rollouts")).read_text())[:20]
    apart = sorted(
        abs(s - q) for of, values in zip(first, own, strict=True) for s, q in zip(values, of["q"], strict=True)
    )
    return {
        "rollouts": len(done),
        "right": sum(of["right"] for of, _ in done),
        "cut_off": sum(not of["ended"] for of, _ in done),
        "own_median": apart[len(apart) // 2],
        "own_p99": apart[len(apart) * 99 // 100],
        "mean": figure(mean),
        "mean_of_ended": figure(mean, lambda of: of["ended"]),
        "first_third": figure(lambda gap: mean(gap[: max(1, len(gap) // 3)])),
        "smallest": figure(min),
        "mean_right": round(mean([mean(gap) for of, gap in kept if of["right"]]), 3),
        "mean_wrong": round(mean([mean(gap) for of, gap in kept if not of["right"]]), 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("student", "teacher", "questions", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    if given.show:
        print(json.dumps(show(given.folder), indent=1))
    else:
        work(given)
