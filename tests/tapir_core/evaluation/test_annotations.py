import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapir_core.errors import ConfigError
from tapir_core.evaluation.alpaca_eval import read_anchors, read_annotations, read_outputs
from tapir_core.evaluation.length_control import Annotation, read_difficulty


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def original(preference: Any = 1.5, **fields: Any) -> dict[str, Any]:
    """A judgment as the original's annotations.json has it."""
    return {
        "instruction": "Write.",
        "output_1": "four",
        "generator_1": "baseline",
        "output_2": "zwölf",
        "generator_2": "model",
        "annotator": "anna",
        "preference": preference,
        "raw_completion": {"logprobs": []},
        **fields,
    }


def test_the_originals_annotations_and_ours_are_read_alike(tmp_path: Path) -> None:
    rows = [original(1.75), original(None), original(-1), original(0), original(float("nan"))]
    ours = [{"preference": row["preference"], "len_baseline": 4, "len_model": 5} for row in rows]
    as_list = read_annotations(write(tmp_path / "annotations.json", json.dumps(rows)))
    as_lines = read_annotations(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, ours)) + "\n\n"))
    assert as_list.judged == as_lines.judged
    assert (as_list.in_words, as_lines.in_words) == ("model: model; annotator: anna; baseline: baseline", "")
    assert as_list.judged == [Annotation(preference, 5, 4) for preference in (1.75, None, None, 1.5, None)]


def test_judgments_of_several_models_are_no_figures_of_one(tmp_path: Path) -> None:
    """The original's own cache of judgments is such a file."""
    rows = [original(generator_2="ours"), original(generator_2="theirs"), original(generator_2="ours")]
    with pytest.raises(ConfigError, match=r"holds judgments of 2 models \(ours, theirs\); give those of one"):
        read_annotations(write(tmp_path / "a.json", json.dumps(rows)))
    many = [original(generator_2=f"m{number}") for number in range(9)]
    with pytest.raises(ConfigError, match=r"9 models \(m0, m1, m2, m3, m4, …\)"):
        read_annotations(write(tmp_path / "a.json", json.dumps(many)))


@pytest.mark.parametrize(
    ("field", "words"),
    [("annotator", r"2 annotators \(anna, bea\)"), ("generator_1", r"2 baselines \(baseline, bea\)")],
)
def test_judgments_of_several_annotators_or_against_several_baselines_are_on_no_one_scale(
    tmp_path: Path, field: str, words: str
) -> None:
    rows = [original(), original(**{field: "bea"}), original(**{field: None})]
    with pytest.raises(ConfigError, match=f"holds judgments of {words}; give those of one"):
        read_annotations(write(tmp_path / "a.json", json.dumps(rows)))
    both = [original(), original(generator_2="theirs", **{field: "bea"})]
    with pytest.raises(ConfigError, match=rf"2 models \(model, theirs\) and {words}"):
        read_annotations(write(tmp_path / "a.json", json.dumps(both)))


def test_a_written_order_is_read(tmp_path: Path) -> None:
    rows = [original(switched=True), original(switched=False), original(switched=None)]
    found = read_annotations(write(tmp_path / "a.json", json.dumps(rows)))
    assert [each.switched for each in found.judged] == [True, False, None]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "neither a JSON list nor JSON lines"),
        ("[]", "holds no annotation"),
        ("{", r"a.json' is neither a JSON list nor JSON lines"),
        ("[{]", r"a.json' is damaged JSON"),
        ("7", "neither a JSON list nor JSON lines"),
        ("[7]", "row 1: expected an object"),
        ('{"output_1": "x", "output_2": "y"}', r"row 1: no preference \(found output_1, output_2\)"),
        ('{"preference": "2", "output_1": "x", "output_2": "y"}', "preference must be a number or null, got '2'"),
        ('{"preference": true, "output_1": "x", "output_2": "y"}', "preference must be a number or null, got True"),
        ('{"preference": 2, "output_1": "x"}', "neither len_model"),
        ('{"preference": 2, "len_model": 3, "len_baseline": 4, "switched": "no"}', "switched must be true"),
    ],
)
def test_what_is_no_annotation_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_annotations(write(tmp_path / "a.json", text))


def test_every_bad_row_is_named_at_once_up_to_twenty(tmp_path: Path) -> None:
    rows = [original(), *[original("x")] * 30]
    with pytest.raises(ConfigError, match="row 21: preference") as refused:
        read_annotations(write(tmp_path / "a.json", json.dumps(rows)))
    assert "row 22" not in str(refused.value)
    assert "and 10 more" in str(refused.value)


def test_a_file_that_is_not_there_or_not_utf8_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_annotations(str(tmp_path / "nowhere.json"))
    (tmp_path / "latin.json").write_bytes(b"\xe4")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_annotations(str(tmp_path / "latin.json"))


@pytest.mark.parametrize(
    "text",
    [
        "item,difficulty,dataset\n0,0.0,koala\n1,-1.5,koala\n",
        ",instruction_difficulty\n0,0.0\n1,-1.5\n",
        "index,0\n0,0.0\n1,-1.5\n",
        "model,index,preference,instruction_difficulty\nv,0,0.5,0.0\nv,1,0.5,-1.5\nc,0,0.4,0.0\nc,1,0.3,-1.5\n",
    ],
    ids=["named", "as the original names it", "an index and a column", "of two anchor models"],
)
def test_difficulty_is_read_in_the_order_of_the_instructions(tmp_path: Path, text: str) -> None:
    assert read_difficulty(write(tmp_path / "d.csv", text)) == [0.0, -1.5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("item,hard,dataset\n0,1,koala\n", "no column difficulty or instruction_difficulty"),
        ("item,difficulty\n0,easy\n", "line 2: difficulty must be a number, got 'easy'"),
        ("item,difficulty\n0,0.5\n1,nan\n", "line 3: difficulty must be a number, got 'nan'"),
        ("item,difficulty\n0,-inf\n", "line 2: difficulty must be a number, got '-inf'"),
        ("item,difficulty\n", "holds no row"),
    ],
)
def test_what_is_no_difficulty_table_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_difficulty(write(tmp_path / "d.csv", text))


def test_anchors_are_annotations_with_a_spread_of_lengths_for_each_model(tmp_path: Path) -> None:
    lengths = {"long": [(300, 100), (500, 100), (100, 100)], "brief": [(10, 100), (20, 100), (60, 100)]}
    rows = [
        {"model": name, "preference": 1.5, "len_model": model, "len_baseline": baseline}
        for name, pairs in lengths.items()
        for model, baseline in pairs
    ]
    rows[1]["preference"] = None
    found = read_anchors(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))), [0.1, 0.2, 0.3, 0.4])
    assert found.features[:, 1].tolist() == [0.1, 0.3, 0.1, 0.2, 0.3]
    assert found.labels.tolist() == [0.5] * 5
    spreads = {name: np.std([b - m for m, b in pairs], ddof=1) for name, pairs in lengths.items()}
    assert found.features[0, 0] == pytest.approx(np.tanh(-200 / spreads["long"]))
    assert found.features[2, 0] == pytest.approx(np.tanh(90 / spreads["brief"]))


def test_the_originals_anchors_bring_lengths_and_difficulty_of_their_own(tmp_path: Path) -> None:
    text = "model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
    text += "v,0,0.75,-1.0,0.0,False\nv,1,,0.5,-1.5,False\nc,0,0.25,2.0,0.0,False\n"
    found = read_anchors(write(tmp_path / "df_gamed.csv", text), [])
    assert found.features[:, 0] == pytest.approx(np.tanh([-1.0, 2.0]))
    assert found.features[:, 1].tolist() == [0.0, 0.0]
    assert found.labels.tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("item,difficulty\n0,1\n", "no column std_delta_len"),
        ("preference,std_delta_len,instruction_difficulty\n1.5,0,0\n", "is a share, 0-1; got 1.5"),
        ("preference,std_delta_len,instruction_difficulty\n0.5,nan,0\n", "std_delta_len must be a number, got 'nan'"),
        (
            '{"preference": 2, "len_model": 3, "len_baseline": 4}\n' * 3,
            "3 rows of one model, the difficulty table only 2",
        ),
    ],
)
def test_what_cannot_be_anchors_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_anchors(write(tmp_path / "anchors", text), [0.0, 1.0])


def test_outputs_are_read_by_instruction(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Say yes.", "output": "Yes.", "generator": "model"},
        {"instruction": "Say no.", "output": ""},
    ]
    assert read_outputs(write(tmp_path / "o.json", json.dumps(rows))) == {"Say yes.": "Yes.", "Say no.": ""}
    with pytest.raises(ConfigError, match=r"row 1: no output \(found instruction\)"):
        read_outputs(write(tmp_path / "o.json", '{"instruction": "Say yes."}'))
