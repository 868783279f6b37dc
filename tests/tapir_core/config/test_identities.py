"""Under which names answers are stored."""

from typing import Any

from tapir_core.config import STANDIN_VERSION, JudgeConfig
from tapir_core.standin import STANDIN_VERSION as FOUND


def judges(*endpoints: dict[str, Any]) -> tuple[str, ...]:
    first, *panel = endpoints
    return JudgeConfig.model_validate({"endpoint": first, "panel": panel}).names


def openai(model: str, identity: str) -> dict[str, str]:
    return {"type": "openai", "model": model, "identity": identity}


def test_a_judge_is_called_by_its_model_and_by_its_identity_where_that_is_not_enough() -> None:
    assert judges(openai("m", "i")) == ("m",)
    assert judges(openai("m", "i"), openai("n", "i"), openai("m", "j")) == ("m (i)", "n", "m (j)")


def test_two_stand_ins_with_other_settings_have_other_names() -> None:
    one, other = judges({"type": "standin", "noise": 1.0}, {"type": "standin", "position_bias": 1.0})
    assert one != other


def test_the_version_under_which_the_stand_ins_answers_are_stored_is_that_of_what_it_says() -> None:
    remedy = "the stand-in answers otherwise now: write this version into STANDIN_VERSION of tapir_core/config/roles.py"
    assert FOUND == STANDIN_VERSION, remedy
