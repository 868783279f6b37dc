"""Runs that need no engine: one stand-in outside the system is their teacher, judge and student."""

from collections.abc import Sequence

from tapir_core.config.load import load_config
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.input_files import gather_ingredients
from tests.harness.flow_run import FlowRun
from tests.harness.stand_ins import RequestLog, endpoints
from tests.harness.standing_root import StandingRoot
from tests.run_builder import build_run
from tests.students import make_tokenized

__all__ = ["CONCURRENCY", "EnginelessRuns"]

CONCURRENCY = 4

CONFIG = """
[run]
name = "example"
root = "{root}"
rounds = 1
[data.pool]
type = "standin"
rows = 120
[data.heldout]
type = "standin"
dev = 20
test = 20
[student]
backbone = "{backbone}"
engine = {{ type = "endpoint", base_url = "{address}", model = "standin-teacher", concurrency = {concurrency} }}
[teacher]
endpoint = {teacher}
[judge]
endpoint = {judge}
[curriculum]
alpha_start = 0.5
refine = true
target_shares = {{ Math = 0.5, Reasoning = 0.5 }}
[basic_tuning]
examples = 32
[rounds.default]
examples = 48
selection = {{ type = "hard_share", share = 0.3 }}
[calls]
concurrency = {concurrency}
rows_per_shard = 20
"""

COMPARISON = """
name = "{name}"
config = "{config}"
run_seeds = [{seed}]
primary = ["multi_round", "random"]
verdict = false
"""


class EnginelessRuns:
    """The runs of one configuration: another seed has another pool, and asks anew."""

    def __init__(self, root: StandingRoot, address: str, calls: RequestLog) -> None:
        self.root, self.calls, self._config = root, calls, root.folder / "example.toml"
        backbone = make_tokenized(root.folder / "backbone")
        roles = {role.partition(".")[0]: text for role, text in endpoints(address).items()}
        values = {"root": root.root, "backbone": backbone, "address": address, "concurrency": CONCURRENCY}
        self._config.write_text(CONFIG.format(**values, **roles))

    def start(self, name: str, *, until: str, seed: int, overrides: Sequence[str] = ()) -> FlowRun:
        """Press *Run* of *distill*."""
        settings = [f"run.seed={seed}", *overrides]
        return self.root.start("distill", run=name, config_file=str(self._config), until=until, overrides=settings)

    def compare(self, name: str, *, seed: int) -> FlowRun:
        """Press *Run* of *compare*: the curriculum and random, with one run seed."""
        spec = self.root.folder / f"{name}.toml"
        spec.write_text(COMPARISON.format(name=name, config=self._config, seed=seed))
        return self.root.start("compare", comparison_file=str(spec))

    def words(self, name: str, *, until: str, seed: int) -> list[str]:
        """What is typed for what `start` presses."""
        return ["run", str(self._config), "--name", name, "--until", until, "--set", f"run.seed={seed}"]

    def build(self, name: str, until: StageAt, *, seed: int) -> RunFolder:
        """A run that is done up to a stage, without a call."""
        config = load_config(self._config, [f"run.seed={seed}"], name)
        return build_run(self.root.root, until=until, config=config, **gather_ingredients(config))
