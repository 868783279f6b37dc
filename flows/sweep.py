"""One curriculum for every backbone of a list that lacks a finished run of it, one after another.

The command line and the deployment differ only in ``distil``, what they do with one opened run. A backbone that fails
is noted and the next one starts. What two runs both need (labels, plain answers, equal verdicts) comes from the store.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from flows.driver import Say, hold_run, is_done, read_config
from tapir_core.config import RunConfig
from tapir_core.config.load import load_config
from tapir_core.config.presets import BackboneEntry, load_backbones, settings_of
from tapir_core.errors import NoFigure, TapirError
from tapir_core.estimate.run import save_estimate
from tapir_core.reporting.benchmarks import require_round_figures
from tapir_core.reporting.sentences import gain_sentence
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.summary import summarise
from tapir_core.sweep import Sweep, Swept, lacks_run
from tasks.input_files import gather_files

__all__ = ["open_sweep", "run_sweep"]


def open_sweep(backbones: str | Path, config: str | Path | None, overrides: Sequence[str]) -> Sweep:
    """Read the list and its curriculum; ``config`` stands in for the one that the list names.

    Raises:
        ConfigError: one of the two is wrong; nothing has started.
    """
    listed = load_backbones(backbones)
    source = str(config or listed.config)
    curriculum = load_config(source, overrides).run
    return Sweep(source, tuple(overrides), RunRef(curriculum.root, curriculum.name), listed.backbones)


def run_sweep(sweep: Sweep, distil: Callable[[RunFolder], object], *, say: Say) -> list[Swept]:
    """Distil every backbone that lacks a finished run; what became of each, in the order of the list."""
    found = []
    for entry in sweep.entries:
        say(f"backbone {entry.name}")
        found.append(_sweep_backbone(sweep, entry, distil, say))
        say(f"backbone {entry.name}: {found[-1].outcome}")
    return found


def _sweep_backbone(sweep: Sweep, entry: BackboneEntry, distil: Callable[[RunFolder], object], say: Say) -> Swept:
    run = RunRef(sweep.curriculum.root, f"{sweep.curriculum.name}-{entry.name}")
    try:
        config = read_config(sweep.source, [*sweep.overrides, *settings_of(entry)], run.name)
        if not lacks_run(config, gather_files(config)):
            return _told(Swept(entry.name, run, "finished before"), config)
        with hold_run(config, say=say) as opened:
            if not is_done(opened, None):
                save_estimate(opened)
                distil(opened)
            return _told(Swept(entry.name, run, "finished"), config)
    except TapirError as error:
        return Swept(entry.name, run, "failed", str(error))
    except Exception:  # told with its traceback, and the sweep ends as failed; the other backbones do not wait for it
        return Swept(entry.name, run, "failed", traceback.format_exc())


def _told(swept: Swept, config: RunConfig) -> Swept:
    """A finished run with what it came to, or with what it has no figure of."""
    summary = summarise(RunFolder(swept.run))
    try:
        require_round_figures(summary, config.evaluation.each_round)
    except NoFigure as error:
        return replace(swept, outcome="without a figure", message=str(error))
    return replace(swept, message=gain_sentence(summary))
