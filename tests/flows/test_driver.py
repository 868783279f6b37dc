"""One driver a run: who is refused, who waits, and what they are told."""

import threading
from pathlib import Path

import pytest

from flows.driver import hold_known_run, hold_run, run_lease
from tapir_core.config import RunConfig
from tapir_core.errors import ConfigError, RunBusy, TapirError
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.stages import StageAt
from tasks.input_files import gather_ingredients
from tests.doubles.provider import FakeProvider
from tests.doubles.shapes import SHAPES
from tests.run_builder import build_run
from tests.run_config import make_config


@pytest.fixture
def run(tmp_path: Path, backbone: Path) -> RunFolder:
    config = make_config(tmp_path, student={"backbone": str(backbone)})
    return build_run(tmp_path, until=StageAt("pool"), config=config, **gather_ingredients(config))


@pytest.fixture
def flow_run(monkeypatch: pytest.MonkeyPatch) -> str:
    """What a worker tells the process that it starts for a flow run; gives the address of that flow run."""
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "1234")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setenv("PREFECT_UI_URL", "")  # as an empty variable of a compose file
    return "http://127.0.0.1:4200/runs/flow-run/1234"


@pytest.mark.parametrize("other", ["5678", ""])
def test_a_second_start_is_refused_with_the_address_of_the_first(
    run: RunFolder, flow_run: str, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    with run_lease(run.config):
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", other)
        with pytest.raises(RunBusy, match=f"flow run {flow_run},"), hold_known_run(run.ref, say=print):
            pass


def test_a_run_of_the_command_line_has_no_address(run: RunFolder) -> None:
    with run_lease(run.config), pytest.raises(RunBusy) as busy, hold_known_run(run.ref, say=print):
        pass
    assert busy.value.flow_run is None
    assert "flow run" not in str(busy.value)


def test_a_flow_run_that_is_resumed_waits_for_its_own_last_process(run: RunFolder, flow_run: str) -> None:
    said: list[str] = []
    earlier = run_lease(run.config)
    earlier.acquire()

    def say(line: str) -> None:
        if not said:
            threading.Thread(target=earlier.release).start()
        said.append(line)

    with hold_known_run(run.ref, say=say) as opened:
        assert opened.ref == run.ref
    waiting = [line for line in said if "waiting for an earlier process of this flow run" in line]
    assert [flow_run in line for line in waiting] == [True], "said once"


def test_a_teacher_that_the_run_cannot_serve_is_refused_before_anything_is_asked(
    tmp_path: Path, backbone: Path
) -> None:
    teacher = {"endpoint": {"type": "vllm", "model": "./nowhere", "max_model_length": 4096}}
    config = make_config(tmp_path, student={"backbone": str(backbone)}, teacher=teacher)
    said: list[str] = []
    refused = pytest.raises(ConfigError, match=r"teacher\.endpoint\.model = './nowhere': no such folder")
    with refused, hold_run(config, say=said.append):
        pytest.fail("the run was opened")
    assert said[-1] == "preparing ./nowhere"


def test_a_run_is_opened_once_also_where_an_endpoint_takes_less(
    tmp_path: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[RunConfig] = []

    def note(config: RunConfig, ingredients: dict[str, str], **how: bool) -> RunFolder:
        opened.append(config)
        return open_run(config, ingredients, **how)

    monkeypatch.setattr("flows.driver.open_run", note)
    with FakeProvider(SHAPES["anthropic_newest"], probed=True) as provider:
        endpoint = {"type": "openai", "base_url": provider.base_url, "api_key_env": "", "model": "a-teacher"}
        teacher = {"endpoint": endpoint, "label_replies": "text"}
        config = make_config(tmp_path, student={"backbone": str(backbone)}, teacher=teacher)
        with hold_run(config, say=print) as run:
            assert run.config.teacher.answering.temperature == "provider"
        asked = len(provider.calls)
        with hold_run(config, say=print) as again:
            assert again.config == run.config
        assert asked == len(provider.calls) > 0
    assert [each.teacher.answering.temperature for each in opened][1:] == ["provider"], "one start, one opening"


class OfPrefect(Exception):
    """As Prefect raises it when its server does not take the state of a flow run."""

    __module__ = "prefect.exceptions"


@pytest.mark.parametrize("wrappings", [0, 1, 2])
def test_the_error_that_ended_a_run_is_told_though_its_server_takes_no_state(run: RunFolder, wrappings: int) -> None:
    def fail(times: int) -> None:
        try:
            if not times:
                raise TapirError("the call store cannot be written; free the disk")
            fail(times - 1)
        except Exception:
            if not times:
                raise
            raise OfPrefect("Server error '500 Internal Server Error'")  # noqa: B904  # as Prefect does

    with pytest.raises(TapirError, match="free the disk"), hold_known_run(run.ref, say=print) as opened:
        fail(wrappings)
    assert opened.error == "the call store cannot be written; free the disk"


def test_a_fault_of_our_own_is_no_error_of_the_user(run: RunFolder) -> None:
    def fail() -> None:
        try:
            raise TapirError("handled")
        except TapirError:
            {}["a bug"]

    with pytest.raises(KeyError), hold_known_run(run.ref, say=print):
        fail()


def test_what_prefect_says_of_itself_is_told_as_it_is(run: RunFolder) -> None:
    with pytest.raises(OfPrefect), hold_known_run(run.ref, say=print):
        raise OfPrefect
