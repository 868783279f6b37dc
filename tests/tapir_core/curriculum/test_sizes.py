"""`"auto"` sizes: what the pool makes of them, in numbers and in words, and that they stay what they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapir_core.config import RunConfig
from tapir_core.config.load import load_config, load_resolved, resolved_json
from tapir_core.errors import ConfigError
from tapir_core.estimate.run import estimate_run
from tapir_core.sources import settle_sizes
from tests.run_config import make_config

ROWS = 3000
TRAINED = 2540
"""Of the 98 % that are likely to be usable, without the 200 instructions each of the judged held-out set."""
ROUND: dict[str, Any] = {"examples": "auto"}
RECOMMENDED: dict[str, Any] = {"basic_tuning": {}, "rounds": {"default": ROUND}}
AUTO: dict[str, Any] = {"basic_tuning": {}, "rounds": {"default": {**ROUND, "selection": {"type": "threshold"}}}}
TEACHER = {"endpoint": {"type": "openai", "model": "m", "base_url": "https://llm.example.com/v1"}}


def own(folder: Path, rows: int = ROWS) -> dict[str, Any]:
    file = folder / "mine.json"
    file.write_text(json.dumps([{"instruction": f"Say {number} in words."} for number in range(rows)]))
    return {"pool": {"type": "file", "path": str(file)}}


def auto(folder: Path, rows: int = ROWS, **sections: Any) -> RunConfig:
    given = {
        "data": own(folder, rows),
        "curriculum": {"alpha_start": 0.3},
        "teacher": TEACHER,
        "judge": TEACHER,
        **AUTO,
        **sections,
    }
    return make_config(folder, **given)


def sizes(config: RunConfig) -> list[int]:
    settled, _ = settle_sizes(config)
    return [settled.examples(number) for number in (0, *settled.round_numbers)]


def test_each_size_is_what_the_pool_is_likely_to_fill(tmp_path: Path) -> None:
    rounds = {"name": "r", "rounds": 4}
    alphas = {"alpha_start": 0.0, "alpha_step": 0.3}
    found = sizes(auto(tmp_path, run=rounds, curriculum=alphas))
    seeds, easy = 762, 1511  # 30 %, and 85 % of the others
    assert found == [TRAINED // 4, easy, round(easy / 0.7), round(2 * seeds / 0.6), round(2 * seeds / 0.9)]


@pytest.mark.parametrize(
    ("sections", "first"),
    [
        ({"curriculum": {"alpha_start": 1.0}}, 2 * 762),
        ({"curriculum": {"alpha_start": 1.0, "expansion": {"max_waves": 0}}}, 762),
        (
            {"rounds": {"default": {**ROUND, "selection": {"type": "hard_share", "share": 0.1}, "alpha": 1.0}}},
            2 * 254,
        ),
        ({"rounds": {"default": {**ROUND, "selection": {"type": "random", "share": 0.0}, "alpha": 0.0}}}, TRAINED),
        ({**RECOMMENDED, "curriculum": {}}, TRAINED),
    ],
)
def test_a_round_follows_its_selection_and_its_alpha(tmp_path: Path, sections: dict[str, Any], first: int) -> None:
    assert sizes(auto(tmp_path, **sections))[1] == first


@pytest.mark.parametrize(("rows", "waves", "examples"), [(250, 3, 512), (128, 3, 404), (128, 0, 104), (900, 3, 706)])
def test_the_recommended_round_has_new_instructions_written_where_the_pool_is_small(
    tmp_path: Path, rows: int, waves: int, examples: int
) -> None:
    found = auto(tmp_path, rows, **RECOMMENDED, curriculum={"expansion": {"max_waves": waves}})
    assert sizes(found)[1] == examples
    assert (f"written up to {examples}" in settle_sizes(found)[1][1]) is (examples in (512, 404))


def test_rows_that_bring_their_answers_are_all_counted_as_usable(tmp_path: Path) -> None:
    judged = {"type": "judged", "answers": "teacher", "test": 20, "dev": 10}
    rows = [
        {"instruction": f"Say {each} in words.", **({"output": "So."} if each >= 50 else {})} for each in range(300)
    ]
    (tmp_path / "given.json").write_text(json.dumps(rows))
    pool = {"type": "file", "path": str(tmp_path / "given.json"), "answers": "use", "answered_by": "x"}
    found = make_config(
        tmp_path,
        teacher=TEACHER,
        judge=TEACHER,
        **RECOMMENDED,
        data={"pool": pool, "heldout": judged},
        curriculum={"expansion": {"max_waves": 0}},
    )
    # One of the 50 is likely to be lost, which a quarter allows for, and a round of all takes if it comes.
    assert sizes(found) == [(300 - 1 - 30) // 4, 300 - 30, 300 - 30]


def test_a_tiny_pool_leaves_something_to_train_on(tmp_path: Path) -> None:
    assert min(sizes(auto(tmp_path, rows=3))) == 1


def test_the_number_is_kept_and_the_same_file_gives_the_same_run(tmp_path: Path) -> None:
    settled, said = settle_sizes(auto(tmp_path))
    kept = load_resolved(resolved_json(settled))
    assert '"examples": "auto"' not in resolved_json(settled)
    assert kept == settled == settle_sizes(auto(tmp_path))[0]
    assert settle_sizes(kept) == (kept, ())
    assert len(said) == 3


def test_one_more_round_changes_none_before_it(tmp_path: Path) -> None:
    two, three = (auto(tmp_path, run={"rounds": rounds}) for rounds in (2, 3))
    assert sizes(two) == sizes(three)[:3]


def test_what_is_written_as_a_number_stays(tmp_path: Path) -> None:
    config = auto(tmp_path, rounds={"default": {"examples": "auto", "epochs": 1.0}, "2": {"examples": 77}})
    settled, said = settle_sizes(config)
    assert (settled.examples(2), settled.round(1).epochs, settled.round(2).epochs) == (77, 1.0, 1.0)
    assert [each.partition(" = ")[0] for each in said] == ["basic_tuning.examples", "rounds.1.examples"]


def test_without_auto_the_pool_is_not_read(tmp_path: Path) -> None:
    config = make_config(tmp_path, data={"pool": {"type": "file", "path": str(tmp_path / "none.json")}})
    assert settle_sizes(config) == (config, ())


def test_the_estimate_says_what_auto_became_and_why_and_counts_it(tmp_path: Path) -> None:
    found = estimate_run(auto(tmp_path), source="a test", sample=20)
    basic, first, second = found.assumptions[:3]
    assert basic.startswith("basic_tuning.examples = auto: 635 for S_0, a quarter of the 2,540")
    assert first.startswith("rounds.1.examples = auto: 2,159, since of 2,540 instructions some 1,511 are likely to be")
    assert second.startswith("rounds.2.examples = auto: ")


def test_a_pool_that_cannot_be_read_is_an_error_of_the_pool(tmp_path: Path) -> None:
    config = auto(tmp_path)
    (tmp_path / "mine.json").write_text('[{"instruction": ""}]')
    with pytest.raises(ConfigError, match="empty"):
        settle_sizes(config)


def test_a_word_that_is_no_size_is_refused_with_what_may_stand_there(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('run.name = "a"\ndata.pool.type = "standin"\nteacher.endpoint.type = "standin"\n')
    for wrong in ("most", "0"):
        with pytest.raises(ConfigError, match=r"rounds\.default\.examples: value .*expected .*(auto|integer)"):
            load_config(tmp_path / "a.toml", [f"rounds.default.examples={wrong}"])
