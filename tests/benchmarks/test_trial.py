"""The trial on a tiny student: what it decodes, that arms cost the same, that it goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.trial import bundle
from benchmarks.trial.__main__ import Job, Trial
from benchmarks.trial.arms import ARMS
from benchmarks.trial.model import LOSSES, MACHINES, Row, decode, load, score, train
from benchmarks.trial.pairs import standin
from benchmarks.trial.show import show
from tests.harness.processes import REPOSITORY
from tests.students import make_tiny_students

CPU = MACHINES["cpu"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads of so small a model wait for each other, and longer where others compute too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    [folder] = make_tiny_students(tmp_path_factory.mktemp("tiny"), 1)
    return folder


PROMPTS = [[5, 6, 7], [9] * 12, [300, 20], [8]]


def test_greedy_answers_are_those_of_transformers(tiny):
    model = load(tiny, CPU)
    stops = [decode(model, PROMPTS[:1], [], 6, CPU)[0].answer[3]]  # so that one ends before the others
    made = decode(model, PROMPTS, stops, 12, CPU)
    for prompt, row in zip(PROMPTS, made, strict=True):
        given = torch.tensor([prompt])
        found = model.generate(given, max_new_tokens=12, do_sample=False, eos_token_id=stops, pad_token_id=0)
        assert row.answer == found[0, len(prompt) :].tolist()
        assert row.ended == (row.answer[-1] in stops)
    assert made[0].ended
    assert not all(row.ended for row in made)


def test_what_was_sampled_is_scored_alike(tiny):
    model = load(tiny, CPU)
    made = decode(model, PROMPTS, [3], 20, CPU, temperature=1.0, seed=4)
    for row in score(model, made, CPU, top=True):
        assert row.t == pytest.approx(row.q, abs=1e-4)
        assert row.top is not None
        assert row.top[0].shape == (len(row.answer), 32)


def test_a_student_that_equals_its_teacher_learns_nothing_from_it(tiny):
    before = load(tiny, CPU)
    rows = score(before, decode(before, PROMPTS, [3], 20, CPU, temperature=1.0), CPU, top=True)
    for loss in ("policy", "forward_kl"):
        model = load(tiny, CPU, to_train=True)
        logits = model(torch.tensor([[*rows[0].prompt, *rows[0].answer]])).logits[0, len(rows[0].prompt) - 1 : -1]
        step = SimpleNamespace(tokens=len(rows[0].answer), elements=1)
        LOSSES[loss](rows[:1], logits.float(), step, CPU).backward()
        assert max(float(each.grad.abs().max()) for each in model.parameters() if each.grad is not None) < 1e-4


def test_a_training_prefers_and_returns_the_mean_of_its_quarters(tiny):
    model = load(tiny, CPU, to_train=True)
    good, bad = (Row([5, 6], [each] * 4 + [3], q=[-6.9] * 5) for each in (40, 50))

    def gap() -> float:
        likely = [sum(row.t) for row in score(model, [good, bad], CPU)]
        return likely[0] - likely[1]

    before = gap()
    mean = train(model, [(good, bad)] * 8, LOSSES["prefer"], CPU, rate=1e-3, batch=1)
    assert gap() > before + 1
    first = load(tiny, CPU).state_dict()
    last = model.state_dict()
    between = [float(((mean[name] - first[name]) * (last[name] - first[name])).sum()) for name in mean]
    assert all(each > 0 for each in between)
    assert any(not torch.equal(mean[name], last[name]) for name in mean)


def test_each_arm_has_the_seconds_of_the_on_policy_one(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    pair = standin(tmp_path, SimpleNamespace(student=tiny), small=True)
    pair.is_right = lambda item, answer: sum(answer) % 2 == 0
    trial = Trial(pair, tmp_path / "trial", "cpu")
    trial.run(minutes=0.0, anyway=True)  # gates, S_0 and prices; no student
    assert not (tmp_path / "trial" / "results").exists()
    budget = trial.take(Job("policy", "s0", "seconds", 1e-5, 1))[1]
    assert budget["elements"] == pair.sizes.prompts
    for arm in ARMS:
        for unit in ("seconds", "tokens"):
            elements, told = trial.take(Job(arm, "s0", unit, 1e-5, 1))
            assert elements, arm
            most = budget[unit]
            assert told[unit] <= most * 1.0001, arm
            assert told[unit] > 0.5 * most, arm
            wanted = {"own", "right", "mfd", "prefer"}
            assert arm not in wanted or all(each[0].right for each in elements)
    assert all(not bad.right for _, bad in trial.take(Job("prefer", "s0", "seconds", 1e-5, 1))[0])


def test_another_trial_in_a_folder_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    pair = standin(tmp_path, SimpleNamespace(student=tiny), small=True)
    Trial(pair, tmp_path / "trial", "cpu")
    pair.sizes = pair.sizes._replace(batch=4)
    with pytest.raises(SystemExit, match="holds another trial"):
        Trial(pair, tmp_path / "trial", "cpu")


@pytest.mark.slow
def test_killed_twice_it_goes_on_where_it_was(tiny, tmp_path):
    folder = tmp_path / "trial"
    command = [sys.executable, "-m", "benchmarks.trial", "standin", folder, "--student", tiny, "--small", "--anyway"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}

    def made() -> dict[Path, tuple[float, bytes]]:
        files = [file for part in ("results", "material", "s0", "teacher") for file in (folder / part).glob("[!.]*")]
        return {file: (file.stat().st_mtime, file.read_bytes()) for file in files if file.is_file()}

    kept: dict[Path, tuple[float, bytes]] = {}
    for students in (2, 9):
        with subprocess.Popen(command, cwd=REPOSITORY, env=alone, stdout=subprocess.DEVNULL) as child:
            while len(list((folder / "results").glob("[!.]*"))) < students:
                assert child.poll() is None
                time.sleep(0.02)
            child.send_signal(signal.SIGKILL)
        before, kept = kept, made()
        assert before.items() <= kept.items()
    done = subprocess.run(command, cwd=REPOSITORY, env=alone, capture_output=True, text=True, check=True)
    assert kept.items() <= made().items()
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    results = list((folder / "results").iterdir())
    assert len([file for file in results if not file.name.startswith(".")]) == 9 * 3
    assert 0 < len(lines) <= 27 - 9
    again = subprocess.run(command, cwd=REPOSITORY, env=alone, capture_output=True, text=True, check=True)
    assert again.stdout.count("{") == 0
    assert any(line.startswith("| forward_kl |") for line in show(folder))


def result(arm: str, seed: int, test: str, *, rate: float = 1e-5, dev: str = "1010") -> dict[str, object]:
    marks = {"right": test, "ended": "1" * len(test)}
    job = Job(arm, "s0", "seconds", rate, seed)
    return {**job._asdict(), "dev": {"right": dev}, "test": marks, "elements": 4, "seconds": 2.0}


@pytest.mark.parametrize(("better", "verdict"), [("1" * 160 + "0" * 40, "shown"), ("10" * 100, "not shown")])
def test_the_verdict_is_by_test_and_all_choices_are_by_dev(tmp_path, better, verdict):
    (tmp_path / "results").mkdir()
    plain, worse = "10" * 100, "0" * 200
    found = [result("fresh", seed, plain) for seed in (1, 2, 3)]
    found += [result("own", seed, "1" * 200, dev="0000") for seed in (1, 2, 3)]  # better on test, not chosen on dev
    found += [result("policy", seed, better, rate=1e-5, dev="1110") for seed in (1, 2, 3)]
    found += [result("policy", seed, worse, rate=3e-5, dev="1100") for seed in (1, 2, 3)]
    for number, each in enumerate(found):
        (tmp_path / "results" / f"{number}.json").write_text(json.dumps(each))
    lines = list(show(tmp_path))
    assert "set against `fresh`" in lines[0]
    assert lines[-1].startswith("\n`policy` over `fresh`")
    assert lines[-1].endswith(f": {verdict}")


def test_chunks_are_taken_in_order_and_come_out_whole(tmp_path, monkeypatch):
    stage, out = tmp_path / "stage", tmp_path / "out"
    monkeypatch.setattr(bundle, "CHUNK", 4096)
    (stage / "data").mkdir(parents=True)
    out.mkdir()
    content = os.urandom(30_000)
    (stage / "data" / "rows").write_bytes(content)
    told = bundle.pack(stage, out)
    chunks = sorted(each.name for each in out.iterdir() if each.name != "first")
    assert told["transfers"] == len(chunks) + 1 > 8

    def take(number: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", out / "first" / "take.sh", out, number]
        environment = {**os.environ, "T": str(tmp_path / "far")}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert "chunk 0 is expected" in take("001").stdout
    for name in chunks:
        assert take(name).returncode == 0
    assert (tmp_path / "far" / "data" / "rows").read_bytes() == content
