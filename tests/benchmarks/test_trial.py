"""The trial on a tiny student: what it decodes, that arms cost the same, that it goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.trial import answers, bundle
from benchmarks.trial.__main__ import Job, Trial
from benchmarks.trial.arms import ARMS
from benchmarks.trial.model import LOSSES, MACHINES, Row, decode, load, score, train
from benchmarks.trial.pairs import gsm8k, standin
from benchmarks.trial.show import show
from tests.harness.processes import REPOSITORY

CPU = MACHINES["cpu"]

pytestmark = pytest.mark.usefixtures("one_thread")


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
    mean = train(model, [(good, bad)] * 8, LOSSES["prefer"], CPU, rate=1e-3, batch=1, averaged=True)
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
    material = trial._materials["s0"]
    assert min(material.prices.values()) > 0
    material.prices = dict.fromkeys(material.prices, 0.001)  # what was measured depends on what else runs here
    budget = trial.take(Job("forward_kl", "s0", "seconds", 1e-5, 1))[1]
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


def test_a_real_pair_without_its_models_says_what_it_needs(tmp_path):
    with pytest.raises(SystemExit, match="gsm8k needs --teacher, --data"):
        gsm8k(tmp_path, SimpleNamespace(student=tmp_path, teacher=None, data=None), small=True)


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
    assert not any("test" in line for line in lines)
    again = subprocess.run(command, cwd=REPOSITORY, env=alone, capture_output=True, text=True, check=True)
    assert again.stdout.count("{") == 0
    assert any(line.startswith("| forward_kl |") for line in show(folder))


def result(
    arm: str, seed: int, test: str, *, rate: float = 1e-5, dev: str = "1010", start: str = "s0"
) -> dict[str, object]:
    marks = {"right": test, "ended": "1" * len(test)}
    job = Job(arm, start, "seconds", rate, seed)
    return {**job._asdict(), "dev": {"right": dev}, "test": marks, "elements": 4, "seconds": 2.0}


@pytest.mark.parametrize(("better", "verdict"), [("1" * 160 + "0" * 40, "shown"), ("10" * 100, "not shown")])
def test_the_verdict_is_by_test_and_all_choices_are_by_dev(tmp_path, better, verdict):
    (tmp_path / "results").mkdir()
    (tmp_path / "trial.json").write_text(json.dumps({"sizes": {"seeds": [1, 2, 3]}}))
    plain, worse = "10" * 100, "0" * 200
    found = [
        result(arm, seed, *marks, dev=dev, rate=rate)
        for seed in (1, 2, 3)
        for arm, marks, dev, rate in (
            ("right", [worse], "0000", 1e-5),
            ("epochs", [worse], "0000", 1e-5),
            ("own", ["1" * 200], "0000", 1e-5),  # better on test, not chosen on dev
            ("forward_kl", [better], "1110", 1e-5),
            ("forward_kl", [worse], "1100", 3e-5),
            ("fresh", [plain], "1010", 1e-5),
        )
    ]
    for number, each in enumerate(found):
        lines = list(show(tmp_path))
        assert not any("over" in line for line in lines), "no verdict before all is there"
        assert not any("|" in line for line in lines)
        (tmp_path / "results" / f"{number:02}.json").write_text(json.dumps(each))
    lines = list(show(tmp_path))
    assert "set against `fresh`" in lines[0]
    assert lines[-1].startswith("\n`forward_kl` over `fresh`")
    assert lines[-1].endswith(f": {verdict}")


def test_a_second_start_is_set_against_the_one_way_that_it_has(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "trial.json").write_text(json.dumps({"sizes": {"seeds": [1]}}))
    for arm in ("fresh", "forward_kl"):
        (tmp_path / "results" / f"{arm}.json").write_text(json.dumps(result(arm, 1, "10" * 100, start="backbone")))
    lines = list(show(tmp_path))
    assert lines[0].startswith("\nbackbone, equal seconds; set against `fresh`")
    assert lines[-1].endswith(": not shown")


def test_results_of_another_start_are_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    pair = standin(tmp_path, SimpleNamespace(student=tiny), small=True)
    folder = tmp_path / "trial"
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "fresh-s0-seconds-1e-05-s1.json").write_text(json.dumps({"made_with": "another S_0"}))
    with pytest.raises(SystemExit, match="made with another S_0 or other prices"):
        Trial(pair, folder, "cpu").run(minutes=1, anyway=True)


def test_chunks_are_taken_in_order_and_come_out_whole(tmp_path, monkeypatch):
    stage, out, far = tmp_path / "stage", tmp_path / "out", tmp_path / "far"
    monkeypatch.setattr(bundle, "CHUNK", 4096)
    content = os.urandom(30_000)
    for name in ("student", "teacher"):
        (stage / name).mkdir(parents=True)
        (stage / f"{name}.part").mkdir()
        (stage / f"{name}.part" / "model.safetensors").write_bytes(content)  # as a converter leaves it
    out.mkdir()
    told = bundle.pack(stage, out)
    chunks = sorted(each.name for each in out.iterdir() if each.name != "first")
    assert told["transfers"] == len(chunks) + 1 > 15

    def take(number: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", out / "first" / "take.sh", out, number]
        return subprocess.run(
            command, env={**os.environ, "T": str(far), "PYTHON": "true"}, capture_output=True, text=True
        )

    def take_all() -> str:
        for number, name in enumerate(chunks):
            if number == 3:  # killed while the third was written
                (far / "stream").write_bytes((far / "stream").read_bytes() + b"half")
            done = take(name)
        return done.stdout

    assert "chunk 0 is expected" in take("001").stdout
    whole = (out / chunks[5]).read_bytes()
    (out / chunks[5]).write_bytes(bytes(4096))
    assert "begin again with chunk 0" in take_all()
    (out / chunks[5]).write_bytes(whole)
    assert take_all().endswith("ready\n")
    assert (far / "student" / "model.safetensors").read_bytes() == content
    assert (far / "teacher" / "model.safetensors").read_bytes() == content


def test_the_table_of_the_page_is_that_of_the_recorded_results():
    page = (REPOSITORY / "benchmarks" / "trial" / "README.md").read_text()
    printed = list(show(REPOSITORY / "benchmarks" / "results" / "trial-standin"))
    assert "\n".join(printed).strip() in page
    apart = {cells[1].strip(): cells[8].strip() for line in printed if len(cells := line.split("|")) == 11}
    for page in ("when-it-pays.md", "LOG.md"):
        told = (REPOSITORY / "docs" / page).read_text().replace("−", "-")
        assert all(apart[arm] in told for arm in ("forward_kl", "fresh", "prefer")), page


def test_of_several_answers_each_arm_takes_its_own():
    wrong, likely, sure = Row([1], [5], t=[-3.0]), Row([1], [6], t=[-0.1]), Row([1], [7], right=True, t=[-2.0])
    drawn = [[wrong, likely, sure, sure], [wrong] * 4]
    found = {name: [row.answer[0] for row in take(drawn)] for name, take in answers.ARMS.items()}
    assert found == {
        "one": [5, 5],
        "all": [5, 6, 7, 7, 5, 5, 5, 5],
        "likeliest": [6, 5],
        "all_right": [7, 7],
        "best": [7],
    }


def test_several_answers_are_tried_and_shown(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    for name in ("teacher", "s0"):
        (tmp_path / "trial" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "trial" / name).symlink_to(tiny)
    pair = partial(standin, given=SimpleNamespace(student=tiny))
    monkeypatch.setitem(answers.PAIRS, "standin", lambda folder, _, small: pair(folder, small=small))
    with pytest.raises(SystemExit, match=r"all_right, seed 1: none of the teacher's answers is right"):
        answers.run(tmp_path / "trial", tmp_path / "found", small=True)  # the tiny one never is
    assert capsys.readouterr().out.count(": dev ") == 3
    monkeypatch.setitem(answers.ARMS, "all_right", lambda prompts: [prompts[0][0]])
    monkeypatch.setitem(answers.ARMS, "best", lambda prompts: [prompts[0][1]])
    answers.run(tmp_path / "trial", tmp_path / "found", small=True)
    assert capsys.readouterr().out.count(": dev ") == 3, "the others were there"
    answers.run(tmp_path / "trial", tmp_path / "found", small=True)
    assert capsys.readouterr().out == "", "all was there"
    lines = list(answers.show(tmp_path / "found"))
    assert [line.split("|")[1].strip() for line in lines[2:]] == [*answers.ARMS, "prompts"]
    told = json.loads((tmp_path / "found" / "results" / "prompts-s1.json").read_text())
    assert (told["different"], told["examples"], len(told["dev"]["right"])) == (64, 64, 16)


def test_the_table_of_several_answers_is_that_of_the_recorded_results():
    printed = list(answers.show(REPOSITORY / "benchmarks" / "results" / "trial-answers"))
    assert "\n".join(printed) in (REPOSITORY / "benchmarks" / "trial" / "README.md").read_text()
    over_all = {cells[1].strip(): cells[6].strip() for line in printed if len(cells := line.split("|")) == 9}
    told = (REPOSITORY / "docs" / "LOG.md").read_text().replace("−", "-")
    assert all(over_all[arm].lstrip("+").replace("+", "") in told for arm in ("likeliest", "best", "prompts"))
