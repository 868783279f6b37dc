"""What `make images` starts is what compose.yaml says; the containers themselves are that command's."""

import importlib.util
import itertools
import re
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "docker/images.py"
spec = importlib.util.spec_from_file_location("images", FILE)
assert spec is not None
assert spec.loader is not None
images = importlib.util.module_from_spec(spec)
spec.loader.exec_module(images)


def test_services_start_in_the_order_in_which_they_wait() -> None:
    order = images._ordered()
    assert set(order) == set(images.SERVICES)
    assert order.index("postgres") < order.index("server") < order.index("deploy") < order.index("cpu-worker")


@pytest.mark.parametrize("name", sorted(images.SERVICES))
def test_a_container_has_what_compose_gives_its_service(name: str) -> None:
    service, told = images.SERVICES[name], images.arguments(name)
    assert [word for word in told if "${" in word] == []
    assert told[len(told) - len(service.get("command", [])) :] == [str(word) for word in service.get("command", [])]
    pairs = [*itertools.pairwise(told)]
    assert [right for option, right in pairs if option == "--cap-drop"] == service.get("cap_drop", [])
    given = [value.partition("=")[0] for option, value in pairs if option == "--env"]
    assert given == list(service["environment"])
    mounted = [value.rpartition(":")[2] for option, value in pairs if option == "--volume"]
    assert len(mounted) == 1 + len(service.get("volumes", [])), "and the hosts file"


def test_secrets_of_the_rehearsal_are_made_anew_and_none_is_left_out() -> None:
    needed = set(re.findall(r"\$\{([A-Z0-9_]+):\?", (FILE.parent / "compose.yaml").read_text()))
    assert needed <= set(images.GIVEN)
    assert all(images.GIVEN[name] for name in needed)
