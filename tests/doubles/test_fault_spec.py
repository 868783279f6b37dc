import math
import re
from pathlib import Path

import pytest

from tapir_core.errors import ConfigError
from tests.doubles.faults import FAULT_KINDS, Faults, Window, read_faults

DOCUMENT = Path(__file__).parents[2] / "docs" / "standin.md"

WHOLE = Faults(
    {"429": 0.1, "500": 0.1, "reset": 0.05},
    (Window("hang", 10, 40), Window("500", 60, math.inf, 0.5)),
    retry_after_seconds=3,
    retry_after_as="date",
    slow_seconds=0.5,
    seed=7,
)
SPEC = (
    "429=0.1, 500=0.1,reset=0.05,hang@10-40,500@60-=0.5,"
    "retry_after_seconds=3,retry_after_as=date,slow_seconds=.5,seed=7,"
)
TOML = """
retry_after_seconds = 3
retry_after_as = "date"
slow_seconds = 0.5
seed = 7

[shares]
429 = 0.1
500 = 0.1
reset = 0.05

[[windows]]
fault = "hang"
from_seconds = 10
to_seconds = 40

[[windows]]
fault = "500"
from_seconds = 60
share = 0.5
"""
JSON = """{"retry_after_seconds": 3, "retry_after_as": "date", "slow_seconds": 0.5, "seed": 7,
"shares": {"429": 0.1, "500": 0.1, "reset": 0.05},
"windows": [{"fault": "hang", "from_seconds": 10, "to_seconds": 40},
            {"fault": "500", "from_seconds": 60, "share": 0.5}]}"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_faults(text)
    return caught.value.problems


def test_a_spec_and_the_files_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text(TOML)
    (tmp_path / "faults.json").write_text(JSON)
    assert read_faults(SPEC) == WHOLE
    assert read_faults(str(tmp_path / "faults.toml")) == WHOLE
    assert read_faults(str(tmp_path / "faults.json")) == WHOLE


def test_an_empty_spec_strikes_nothing() -> None:
    assert read_faults("") == read_faults(" , ") == Faults()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("429", "'429' has no value: write NAME=SHARE, NAME@FROM-TO or OPTION=VALUE"),
        ("418=0.1", "no fault '418': there are 429, 500, hang, reset, truncated, empty, filter, model, slow, trickle"),
        ("429=many", "the share of '429' is 'many': give a number"),
        ("429=1.5", "the share of '429' is 1.5: give a number from 0 to 1"),
        ("429=0.1,429=0.2", "the share of '429' is given twice, 0.1 and 0.2: keep one"),
        ("hang@10", "'hang@10' has no end: write hang@FROM-TO, or hang@FROM- for one that never ends"),
        ("hang@x-40", "from_seconds of the window of 'hang' is 'x': give a number"),
        ("hang@10-y", "to_seconds of the window of 'hang' is 'y': give a number"),
        ("hang@10-40=z", "share of the window of 'hang' is 'z': give a number"),
        ("hang@40-10", "the window of 'hang' goes from 40 to 10 s: begin it at 0 or later and end it after that"),
        ("nap@1-2", "no fault 'nap'"),
        ("seed=1.5", "seed is 1.5: give an integer"),
        ("retry_after_as=week", "retry_after_as is 'week': choose 'seconds' or 'date'"),
        ("retry_after_seconds=soon", "retry_after_seconds is 'soon': give a number"),
        ("slow_seconds=-1", "slow_seconds is -1: give a number of seconds, 0 or more"),
    ],
)
def test_a_wrong_word_is_named_with_its_remedy(spec: str, said: str) -> None:
    (problem,) = problems(spec)
    assert problem.startswith(said)


def test_all_problems_are_told_at_once_with_the_spec() -> None:
    spec = "429=2,nap=0.1,seed=x"
    assert len(problems(spec)) == 3
    with pytest.raises(ConfigError, match=r"^3 problems in the faults '429=2,nap=0\.1,seed=x':\n"):
        read_faults(spec)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"share": {"429": 0.1}}', "'share' = {'429': 0.1} is not known here: there are shares (a table), windows"),
        ('{"shares": [0.1]}', "'shares' = [0.1] is not known here"),
        ('{"shares": {"429": "0.1"}}', "the share of '429' is '0.1': give a number"),
        ('{"shares": {"429": true}}', "the share of '429' is True: give a number"),
        ('{"windows": [{"fault": "hang"}]}', "the window {'fault': 'hang'} is wrong: give it fault, from_seconds"),
        ('{"windows": ["hang"]}', "the window 'hang' is wrong"),
        ('{"windows": [{"fault": ["hang"], "from_seconds": 1}]}', "no fault ['hang']"),
        ('{"seed": true}', "seed is True: give an integer"),
    ],
)
def test_a_wrong_value_of_a_file_is_named(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text(content)
    (problem,) = problems(str(path))
    assert problem.startswith(said)


@pytest.mark.parametrize(("name", "content"), [("no.toml", None), ("bad.toml", "= 1"), ("list.json", "[1]")])
def test_a_file_that_cannot_be_read_is_one_clear_message(name: str, content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=rf"the faults file .*{name}.*(readable|write an object)"):
        read_faults(str(tmp_path / name))


def test_the_document_has_a_row_for_every_fault_and_its_specs_and_its_file_can_be_read(tmp_path: Path) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    faults = text.split("## Faults")[1].split("\n## ")[0]
    assert [name for name in re.findall(r"^\| `(\w+)` \|", faults, re.MULTILINE) if name in FAULT_KINDS] == [
        *FAULT_KINDS
    ]
    specs = re.findall(r'--faults "(.+)"', faults)
    assert len(specs) == 2
    assert all(read_faults(spec) for spec in specs)
    (file_text,) = re.findall(r"```toml\n(.+?)```", faults, re.DOTALL)
    path = tmp_path / "faults.toml"
    path.write_text(file_text, encoding="utf-8")
    windows = (Window("500", 60, 90, 0.5),)
    assert read_faults(str(path)) == Faults({"429": 0.1, "hang": 0.02}, windows, retry_after_as="date")
