"""`python -m benchmarks.lab run`, `show`, `agree` and `plot` (docs/lab.md)."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tapir_core.errors import ConfigError, TapirError


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; gives the exit code."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.work(given))
    except TapirError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code


def _run(given: argparse.Namespace) -> int:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(given.threads)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    import torch

    from benchmarks.lab import recipe, runs, student

    torch.set_num_threads(given.threads)
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    student.check_device(device)
    experiment = recipe.load_experiment(given.experiment)
    for named, known in ((given.arm, [*experiment.arms]), (given.seed, [*experiment.seeds])):
        if unknown := [str(each) for each in named if each not in known]:
            raise ConfigError(f"{given.experiment} has no {', '.join(unknown)}; it has {', '.join(map(str, known))}")
    place = runs.Place(given.to, given.work_folder, device)
    for seed in given.seed or experiment.seeds:
        for name in experiment.ordered():
            if not given.arm or name in given.arm:
                started = time.monotonic()
                made = runs.run(recipe.recipe_of(experiment, name, seed), place, _say)
                minutes = f"made in {(time.monotonic() - started) / 60:.1f} minutes" if made else "is there"
                _say(f"{name}, seed {seed}: {minutes}")
    return 0


def _show(given: argparse.Namespace) -> int:
    from benchmarks.lab.table import show

    print(show(given.folders, given.split))
    return 0


def _agree(given: argparse.Namespace) -> int:
    from benchmarks.lab.agreement import agreement

    table, agrees = agreement(given.folders, given.comparison, given.results)
    print(table)
    return 0 if agrees else 1


def _plot(given: argparse.Namespace) -> int:
    from benchmarks.lab.plot import plot

    given.to.write_text(plot(given.folders, given.sheet), encoding="utf-8")
    return 0


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab", description="The training lab (docs/lab.md).")
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="make the results that lack, an arm and seed at a time")
    run.add_argument("experiment", type=Path, help="a TOML file; e1.toml to e3.toml are beside this module")
    run.add_argument("--to", type=Path, required=True, help="folder of the results, one JSON file an arm and seed")
    run.add_argument("--arm", action="append", default=[], help="this arm only; more than once for several")
    run.add_argument("--seed", action="append", type=int, default=[], help="this seed only; likewise")
    run.add_argument("--threads", type=int, default=1, help="cores (1)")
    run.add_argument("--device", choices=["cpu", "cuda"], help="left out: a GPU where there is one")
    run.add_argument("--work-folder", type=Path, default=Path("build/lab"), help="for students under way (build/lab)")
    run.set_defaults(work=_run)
    show = commands.add_parser("show", help="the arms beside each other")
    show.add_argument("folders", type=Path, nargs="+", help="folders of results")
    show.add_argument("--split", choices=["dev", "test"], default="test", help="dev chooses, test reports (test)")
    show.set_defaults(work=_show)
    agree = commands.add_parser("agree", help="the lab's differences beside the product's; exit code 1 where they part")
    agree.add_argument("folders", type=Path, nargs="+", help="folders of the lab's results")
    agree.add_argument("--comparison", type=Path, required=True, help="a TOML file of `tapir compare`, same arm names")
    agree.add_argument("--results", type=Path, required=True, help="what its finished runs came to")
    agree.set_defaults(work=_agree)
    plot = commands.add_parser("plot", help="accuracy at natural shares by what the arms cost")
    plot.add_argument("folders", type=Path, nargs="+", help="folders of results")
    plot.add_argument("--sheet", default="mini", help="of prices.toml (mini)")
    plot.add_argument("--to", type=Path, required=True, help="SVG file")
    plot.set_defaults(work=_plot)
    return parser


if __name__ == "__main__":
    sys.exit(main())
