"""Rounds that ask no student and no judge: seeds drawn at random, or by the verdicts of an earlier round."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.distill import distill
from tapir_core.curriculum import shares_of
from tapir_core.reporting.report import run_card, write_report
from tapir_core.reporting.tables import mfd_table, rounds_table
from tapir_core.run_folder import RunFolder
from tapir_core.run_state import stop_reason
from tapir_core.stages import StageAt
from tapir_core.summary import RunReader, summarise
from tasks.runtime import close_all
from tests.run_builder import build_run
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_all()


def make_run(
    root: Path, until: StageAt | None, *, share: float = 0.0, alpha: float = 0.0, **sections: Any
) -> RunFolder:
    rounds = {"default": {"examples": 96, "alpha": alpha, "selection": {"type": "random", "share": share}}}
    return build_run(root, until=until, config=make_config(root, rounds=rounds, **sections))


def counted(run: RunFolder, number: int) -> Counter[str]:
    return Counter(run.rows(StageAt("mix", number))["task_type"])


def test_without_seeds_the_whole_mixture_is_drawn_from_the_pool_and_nobody_is_asked(tmp_path: Path) -> None:
    run = make_run(tmp_path, StageAt("evaluate", 0))
    distill(run.ref, until="mix")
    mixture = run.rows(StageAt("mix", 1))
    assert mixture.height == 96
    assert mixture["origin"].unique().to_list() == ["easy"]
    assert mixture["mfd"].null_count() == mixture.height
    assert not mixture["refined"].any()
    assert run.rows(StageAt("select", 1)).height == run.rows(StageAt("expand", 1)).height == 0
    asked = [run.manifest(StageAt(name, 1)) for name in ("answer", "judge", "difficulty")]
    assert asked == [None] * 3
    assert not run.storage.exists("round_01/judge_report.html")


def test_every_task_type_is_at_its_target_share_as_far_as_the_pool_reaches(tmp_path: Path) -> None:
    run = make_run(tmp_path, StageAt("evaluate", 0))
    distill(run.ref, until="mix")
    there = Counter(run.rows(StageAt("label"))["task_type"])
    wanted = {name: 96 * share for name, share in run.config.curriculum.target_shares.items()}
    assert all(count >= min(int(wanted[name]), there[name] - 10) for name, count in counted(run, 1).items())


def test_natural_shares_are_those_of_the_labels(tmp_path: Path) -> None:
    curriculum = {"target_shares": "natural"}
    run = make_run(tmp_path, StageAt("evaluate", 0), curriculum=curriculum)
    distill(run.ref, until="mix")
    natural = shares_of(run.rows(StageAt("label")))
    assert all(abs(counted(run, 1)[name] - 96 * share) <= 1 for name, share in natural.items())
    shown = summarise(run).rounds[-1].mixture
    assert shown is not None
    assert shown.shares["target"].to_list() == pytest.approx(shown.shares["natural"].to_list())
    assert shown.shortfall == {}


def test_what_no_earlier_round_held_comes_first_as_long_as_it_lasts(tmp_path: Path) -> None:
    run = make_run(tmp_path, StageAt("evaluate", 1))
    distill(run.ref, until="mix@2")
    first, second = (run.rows(StageAt("mix", number)) for number in (1, 2))
    pool = run.rows(StageAt("label"))
    used = set(first["instruction_id"])
    again = second.filter(second["instruction_id"].is_in(list(used)))
    assert again.height < second.height
    for (task_type,), rows in again.group_by("task_type"):
        of_type = set(pool.filter(task_type=task_type)["instruction_id"])
        left = of_type - used - set(second["instruction_id"])
        usable = {identity for identity in left if identity in set(usable_ids(run))}
        assert not usable, f"{rows.height} of {task_type} came again before all were used"


def usable_ids(run: RunFolder) -> list[str]:
    teacher = run.rows(StageAt("teach"))
    usable: list[str] = teacher.filter(teacher["finish_reason"] == "stop")["instruction_id"].to_list()
    return usable


def test_random_seeds_are_expanded_and_refined_without_an_mfd_or_a_check(tmp_path: Path) -> None:
    target = make_config(tmp_path).curriculum.target_shares
    curriculum = {"target_shares": target, "refine": True, "expansion": {"max_waves": 1, "check_difficulty": True}}
    run = make_run(tmp_path, StageAt("evaluate", 0), share=0.3, alpha=0.5, curriculum=curriculum)
    distill(run.ref, until="mix")
    seeds = run.rows(StageAt("select", 1))
    assert seeds.height > 0
    assert seeds["mfd"].null_count() == seeds.height
    assert run.rows(StageAt("expand", 1)).height > 0
    assert run.rows(StageAt("refine", 1)).height > 0
    assert "delta" not in run.manifest(StageAt("select", 1)).counts
    origins = Counter(run.rows(StageAt("mix", 1))["origin"])
    assert min(origins["seed"], origins["expansion"], origins["easy"]) > 0


def test_a_random_draw_stops_no_run(tmp_path: Path) -> None:
    target = make_config(tmp_path).curriculum.target_shares
    run = make_run(tmp_path, None, curriculum={"target_shares": target, "stop": {"min_seeds": 500}})
    assert stop_reason(run, 1) is None
    assert summarise(run).next_stage is None


def test_reports_say_that_the_round_judged_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, None, share=0.3, alpha=0.5)
    summary = summarise(run)
    rows = {label.strip(): cells for label, *cells in rounds_table(summary).rows}
    assert rows["not judged"][2:] == ["drawn at random", "drawn at random"]
    assert not {"Scored", "Hard share", "δ, points", "Order gap, points"} & rows.keys()
    assert all(each.unscored is None for each in summary.rounds)
    assert "drawn at random" in run_card(summary, RunReader(run))
    assert not any(mfd_table(each).rows for each in summary.rounds)
    write_report(run)
    assert b"How hard the pool is" not in run.storage.read_bytes("report.html")


def test_without_rejudging_a_round_goes_by_the_verdicts_of_the_first_and_leaves_out_what_is_new(tmp_path: Path) -> None:
    target = make_config(tmp_path).curriculum.target_shares
    curriculum = {"target_shares": target, "alpha_start": 0.5, "rejudge": False, "expansion": {"max_waves": 1}}
    run = build_run(tmp_path, until=StageAt("evaluate", 1), config=make_config(tmp_path, curriculum=curriculum))
    distill(run.ref, until="mix@2")
    new = set(run.rows(StageAt("expand", 1))["instruction_id"])
    assert new
    first, second, mixture = (run.rows(StageAt(*at)) for at in (("select", 1), ("select", 2), ("mix", 2)))
    assert second.height == first.height
    assert second["mfd"].null_count() == 0
    assert not new & (set(second["instruction_id"]) | set(mixture["instruction_id"]))
    assert [run.manifest(StageAt(name, 2)) for name in ("answer", "judge", "difficulty")] == [None] * 3
    rows = {label.strip(): cells for label, *cells in rounds_table(summarise(run)).rows}
    assert rows["not judged"][2:] == ["–", "MFD of round 1"]
    assert rows["Scored"][3] == "–"
