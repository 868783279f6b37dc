from typing import Any

from tapir_core.config import JudgeConfig
from tapir_core.voices import judge_names


def judges(*endpoints: dict[str, Any]) -> JudgeConfig:
    first, *panel = endpoints
    return JudgeConfig.model_validate({"endpoint": first, "panel": panel})


def openai(model: str, identity: str) -> dict[str, str]:
    return {"type": "openai", "model": model, "identity": identity}


def test_a_judge_is_called_by_its_model_and_by_its_identity_where_that_is_not_enough() -> None:
    assert judge_names(judges(openai("m", "i"))) == ("m",)
    names = judge_names(judges(openai("m", "i"), openai("n", "i"), openai("m", "j")))
    assert names == ("m (i)", "n", "m (j)")


def test_two_stand_ins_with_other_settings_have_other_names() -> None:
    one, other = judge_names(judges({"type": "standin", "noise": 1.0}, {"type": "standin", "position_bias": 1.0}))
    assert one != other
