"""`tapir evaluate --annotations`: figures from judgments that are there, with no server and no call."""

import csv
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from tapir_core.errors import ConfigError, NoFigure
from tests.evalref import csv_rows, evalref
from tests.harness.forked import Forked

ROOT = Path(__file__).parents[3]
KEYS = [
    "win_rate",
    "standard_error",
    "discrete_win_rate",
    "n_total",
    "length_controlled_winrate",
    "lc_standard_error",
]
N = 100


def write_annotations(path: Path, *, failed: int = 0, times_longer: float = 2.0, first: bool = False) -> str:
    """Of an annotator that prefers the longer output, or the first one shown."""
    draw = random.Random(0)
    rows = []
    for number in range(N):
        model, baseline = round(800 * times_longer * draw.lognormvariate(0, 0.6)), draw.randint(400, 1_600)
        switched = number % 2 == 0
        better = switched if first else model > baseline
        preference = -1 if number < failed else 2.0 if better else 1.0
        row = {"preference": preference, "output_1": "b" * baseline, "output_2": "m" * model, "switched": switched}
        rows.append(row)
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    difficulty = tmp_path / "difficulty.csv"
    with difficulty.open("w", newline="") as file:
        csv.writer(file).writerows([("item", "difficulty"), *((number, number % 7 - 3) for number in range(N))])
    anchors = [
        json.loads(Path(write_annotations(tmp_path / "a", times_longer=times)).read_text()) for times in (2.0, 0.5)
    ]
    rows = [{"model": name, **row} for name, part in zip(("long", "brief"), anchors, strict=True) for row in part]
    (tmp_path / "anchors.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["--difficulty", str(difficulty), "--anchors", str(tmp_path / "anchors.jsonl")]


def evaluate(*words: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *words])


def test_one_json_object_with_the_originals_names(tmp_path: Path, tables: list[str]) -> None:
    path = write_annotations(tmp_path / "annotations.json")
    found = json.loads(evaluate("--annotations", path, *tables, "--json").stdout)
    assert list(found) == KEYS
    assert found["n_total"] == N
    assert abs(found["length_controlled_winrate"] - 50) < abs(found["win_rate"] - 50) / 2, "only length was preferred"
    alone = json.loads(evaluate("--annotations", path, "--json").stdout)
    assert alone == {**found, "length_controlled_winrate": None, "lc_standard_error": None}


def test_a_table_for_a_reader(tmp_path: Path, tables: list[str]) -> None:
    path = write_annotations(tmp_path / "annotations.json", first=True)
    shown = evaluate("--annotations", path, *tables)
    assert shown.exit_code == 0, shown.output
    flat = " ".join(shown.stdout.split())
    assert "win rate, % 50.00 5.03 40.38 to 59.62 100" in flat
    assert "50 wins, 50 losses, 0 draws." in flat
    assert "gain by standing first, points 100.00" in flat
    published = json.loads(evaluate("--annotations", path, *tables, "--json").stdout)["lc_standard_error"]
    controlled = re.search(r"length-controlled win rate, % ([\d.]+) ([\d.]+) ([\d.]+) to ([\d.]+) 100", flat)
    assert controlled is not None, flat
    rate, error, low, high = map(float, controlled.groups())
    assert low < rate < high
    assert error != pytest.approx(published, abs=0.01), "the published one is no sampling error"
    assert f"The published lc_standard_error, the spread of predictions, is {published:.2f}." in flat
    assert "Position bias: the annotator favours the output shown first." in flat
    alone = " ".join(evaluate("--annotations", path).stdout.split())
    assert "length-controlled win rate, % – –" in alone
    assert "The length-controlled win rate needs the difficulty table and the anchors." in alone


def test_every_figure_counts_what_it_rests_on_and_what_failed(tmp_path: Path, tables: list[str]) -> None:
    shown = evaluate("--annotations", write_annotations(tmp_path / "annotations.json", failed=3), *tables)
    flat = " ".join(shown.stdout.split())
    for name in ("win rate", "discrete win rate", "length-controlled win rate"):
        assert re.search(rf"(^|[n0-9] ){name}, % [0-9. ]+ to [0-9.]+ 97 ", flat), flat
    assert "3 of 100 judgments failed; they are in no figure." in flat


def test_a_few_failures_are_said_beside_the_figures(tmp_path: Path) -> None:
    path = write_annotations(tmp_path / "annotations.json", failed=3)
    done = evaluate("--annotations", path, "--json")
    assert json.loads(done.stdout)["n_total"] == N - 3
    assert "3 of 100 judgments failed; they are in no figure" in " ".join(done.stderr.split())


def test_above_the_allowed_share_of_failures_there_is_no_figure_but_a_reason(tmp_path: Path) -> None:
    path = write_annotations(tmp_path / "annotations.json", failed=6)
    done = evaluate("--annotations", path, "--json")
    assert isinstance(done.exception, NoFigure)
    assert done.stdout == ""
    words = "6 of 100 judgments failed (6.0%), more than the 5.0% allowed"
    assert words in str(done.exception)
    assert "--max-failed-share" in str(done.exception)
    allowed = evaluate("--annotations", path, "--json", "--max-failed-share", "0.06")
    assert json.loads(allowed.stdout)["n_total"] == N - 6
    strict = evaluate("--annotations", write_annotations(tmp_path / "b", failed=1), "--max-failed-share", "0")
    assert isinstance(strict.exception, NoFigure)


def test_the_command_ends_with_4_and_asks_prefect_for_nothing(tmp_path: Path, forked: Forked) -> None:
    path = write_annotations(tmp_path / "annotations.json", failed=6)
    script = (
        "import atexit, sys\n"
        "import flows.cli\n"
        "heavy = {'prefect', 'torch', 'openai', 'sqlalchemy', 'matplotlib'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))))\n"
        "flows.cli.main()\n"
    )
    words = ["evaluate", "--annotations", path, "--json", "--max-failed-share"]
    done = subprocess.run([sys.executable, "-c", script, *words, "0.1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert forked.tapir(*words, "0.05").returncode == 4


def test_whose_judgments_they_are_stands_beside_the_figures(tmp_path: Path) -> None:
    path = Path(write_annotations(tmp_path / "annotations.json"))
    unnamed = evaluate("--annotations", str(path))
    assert "annotator:" not in unnamed.output
    named = {"generator_1": "gpt4", "generator_2": "ours", "annotator": "anna"}
    path.write_text(json.dumps([row | named for row in json.loads(path.read_text())]))
    shown = evaluate("--annotations", str(path))
    assert "Model: ours; annotator: anna; baseline: gpt4. 79 wins" in " ".join(shown.stdout.split())
    as_json = evaluate("--annotations", str(path), "--json")
    assert "model: ours; annotator: anna; baseline: gpt4" in " ".join(as_json.stderr.split())
    assert list(json.loads(as_json.stdout)) == KEYS


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_a_position_bias_is_said_beside_the_figures(tmp_path: Path, form: list[str]) -> None:
    for first in (True, False):
        path = write_annotations(tmp_path / "annotations.json", first=first)
        said = " ".join(evaluate("--annotations", path, *form).stderr.split())
        assert ("position bias: the annotator favours the output shown first" in said) == first


@pytest.mark.parametrize(
    ("rows", "reasons"),
    [
        (
            [(2.0, 900)] * 80,
            ["The length-controlled win rate has no interval: the fit predicts every judgment as it is"],
        ),
        (
            [(1.0, 900), (2.0, 900), (2.0, 700)],
            [
                "The win rate has no interval: 3 rows only.",
                "The discrete win rate has no interval: 3 rows only.",
                "The length-controlled win rate has no interval: 3 judgments only.",
            ],
        ),
        ([(1.5, 600)] * 80, ["The length-controlled win rate has no interval: the baseline against itself."]),
    ],
    ids=["all won", "three only", "the baseline itself"],
)
def test_an_interval_that_is_missing_is_missing_for_a_reason(
    tmp_path: Path, tables: list[str], rows: list[tuple[float, int]], reasons: list[str]
) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([{"preference": p, "len_model": chars, "len_baseline": 600} for p, chars in rows]))
    flat = " ".join(evaluate("--annotations", str(path), *tables).stdout.split())
    for reason in reasons:
        assert reason in flat
    assert flat.count("has no interval") == len(reasons)


def test_annotations_behind_a_gap_are_said_to_take_a_neighbours_difficulty(tmp_path: Path, tables: list[str]) -> None:
    path = Path(write_annotations(tmp_path / "annotations.json"))
    path.write_text(json.dumps(json.loads(path.read_text())[1:]))
    said = " ".join(evaluate("--annotations", str(path), *tables).stderr.split())
    assert "99 annotations, but a difficulty table of 100 instructions" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to evaluate: give a RUN, or --annotations FILE"),
        (["run", "--annotations", "a.json"], r"a run \(run\) and --annotations: give one of the two"),
        (["--round", "2", "--annotations", "a.json"], "--round 2 and --annotations: a round is one of a RUN"),
        (["run", "--json"], "--json without --annotations FILE"),
        (["--difficulty", "d", "--max-failed-share", "0.1"], "--difficulty, --max-failed-share without --annotations"),
        (["--annotations", "a.json", "--difficulty", "d"], "--difficulty without --anchors"),
        (["--annotations", "a.json", "--anchors", "d"], "--anchors without --difficulty"),
        (["--annotations", "nowhere.json"], "there is no file 'nowhere.json'"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], said: str) -> None:
    done = evaluate(*words)
    assert isinstance(done.exception, ConfigError)
    with pytest.raises(ConfigError, match=said):
        raise done.exception


def test_a_published_model() -> None:
    folder, model = evalref("alpaca_eval"), "FuseChat-Llama-3.2-1B-Instruct"
    words = ["--difficulty", str(folder / "difficulty.csv"), "--anchors", str(folder / "anchor_pseudo.jsonl")]
    done = evaluate("--annotations", str(folder / "models" / f"{model}.jsonl"), *words, "--json")
    found = json.loads(done.stdout)
    published = next(row for row in csv_rows("alpaca_eval/expected.csv") if row["model"] == model)
    for key in KEYS:
        assert found[key] == pytest.approx(float(published[key]), abs=0.2 if key.startswith("l") else 0.01), key
