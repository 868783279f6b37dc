import socket
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from genai_prices import Usage, calc_price

from tapir_core import prices
from tapir_core.calls.types import BATCH_FACTOR, is_local
from tapir_core.config import OpenAIEndpoint, StandinEndpoint
from tapir_core.prices import Price, UnknownPrice, missing_prices, price_of
from tests.run_config import make_config


def endpoint(**fields: Any) -> OpenAIEndpoint:
    return OpenAIEndpoint.model_validate({"model": "gpt-4o-mini", "identity": "i", **fields})


def known(found: Price | UnknownPrice) -> Price:
    assert isinstance(found, Price), found
    return found


def test_the_stand_in_is_free() -> None:
    assert known(price_of(StandinEndpoint())).usd(1e6, 1e6) == 0


def test_a_model_of_a_known_provider_has_its_list_price() -> None:
    price = known(price_of(endpoint()))
    assert price.usd_per_million_prompt_tokens == pytest.approx(0.15)
    assert price.usd_per_million_completion_tokens == pytest.approx(0.60)
    assert "gpt-4o-mini" in price.source


def test_list_prices_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("a price was looked up on the network")

    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    assert known(price_of(endpoint(model="gpt-4o"))).usd_per_million_prompt_tokens > 0


def test_the_configuration_goes_before_the_list() -> None:
    price = known(price_of(endpoint(usd_per_million_prompt_tokens=1.0, usd_per_million_completion_tokens=2.0)))
    assert price.usd(1e6, 1e6) == pytest.approx(3.0)
    assert price.source == "the configuration"


def test_a_price_of_zero_is_a_price() -> None:
    price = price_of(
        endpoint(model="new-model", usd_per_million_prompt_tokens=0.0, usd_per_million_completion_tokens=0.0)
    )
    assert known(price).usd(1e6, 1e6) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "a-model-that-nobody-sells"},
        {"base_url": "https://llm.example.com/v1"},
        {"usd_per_million_prompt_tokens": 1.0},
        {"usd_per_million_completion_tokens": 1.0},
        {"base_url": "https://openrouter.ai/api/v1", "model": "deepseek/deepseek-r1:free"},
    ],
)
def test_what_nobody_prices_is_unknown_with_the_fields_to_set(fields: dict[str, Any]) -> None:
    found = price_of(endpoint(**fields))
    assert isinstance(found, UnknownPrice)
    assert found.reason
    assert "usd_per_million_prompt_tokens" in found.remedy
    assert "usd_per_million_completion_tokens" in found.remedy


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8000/v1",
        "http://localhost:8000/v1",
        "http://[::1]:8000/v1",
        "http://10.1.2.3/v1",
        "http://192.168.0.7:8000/v1",
        "http://vllm:8000/v1",
        "http://teacher.svc.local/v1",
    ],
)
def test_an_own_server_is_free_unless_it_is_priced(address: str) -> None:
    assert is_local(address)
    assert known(price_of(endpoint(base_url=address, model="my-model"))).usd(1e6, 1e6) == 0
    priced = endpoint(base_url=address, usd_per_million_prompt_tokens=1.0, usd_per_million_completion_tokens=0.0)
    assert known(price_of(priced)).usd(1e6, 1e6) == pytest.approx(1.0)


@pytest.mark.parametrize("address", ["https://api.openai.com/v1", "https://8.8.8.8/v1", "https://llm.example.com/v1"])
def test_a_public_address_is_not_taken_for_an_own_server(address: str) -> None:
    assert not is_local(address)


def test_of_several_addresses_the_dearest_counts_and_one_unknown_makes_it_unknown() -> None:
    own, provider, stranger = "http://127.0.0.1:8000/v1", "https://api.openai.com/v1", "https://llm.example.com/v1"
    assert known(price_of(endpoint(base_url=[own, provider]))) == known(price_of(endpoint()))
    assert isinstance(price_of(endpoint(base_url=[provider, stranger])), UnknownPrice)


def test_a_batch_costs_half_in_every_part() -> None:
    price = Price("a test", usd_per_million_prompt_tokens=2.0, usd_per_million_completion_tokens=4.0)
    batch = price.in_mode("batch")
    assert batch.usd(1000, 1000) == pytest.approx(price.usd(1000, 1000) / 2)
    assert price.in_mode("live") == price
    assert BATCH_FACTOR == 0.5


def test_a_cap_on_usd_needs_every_price_and_any_other_cap_none(tmp_path: Path) -> None:
    unknown = {"endpoint": {"type": "openai", "model": "nobody-sells-it", "identity": "i"}}

    def missing(**budget: Any) -> list[str]:
        return missing_prices(make_config(tmp_path, teacher=unknown, judge=unknown, budget=budget))

    assert missing(requests=5, stages={"judge": {"tokens": 5}}) == []
    assert [line.partition(":")[0] for line in missing(usd=5.0)] == ["teacher.endpoint", "judge.endpoint"]
    assert missing(stages={"judge": {"usd": 5.0}}) == missing(usd=5.0)
    panel = {"endpoint": {"type": "standin"}, "panel": [unknown["endpoint"]]}
    (line,) = missing_prices(make_config(tmp_path, judge=panel, budget={"usd": 5.0}))
    assert line.startswith("judge.panel.0: ")
    assert missing_prices(make_config(tmp_path, budget={"usd": 5.0})) == []


def test_a_price_by_the_hour_counts_as_the_highest_of_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = iter(range(24))

    class At(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "At":
            return cls(2026, 11, 26, next(hours), 30, tzinfo=tz)

    monkeypatch.setattr(prices, "datetime", At)
    asked = endpoint(model="deepseek-chat", base_url="https://api.deepseek.com/v1")
    found = {known(price_of(asked)).usd(1e6, 1e6) for _ in range(24)}
    assert len(found) == 1
    usage, at = Usage(input_tokens=1000, output_tokens=1000), datetime(2026, 11, 26, tzinfo=UTC)
    of_hours = [
        calc_price(
            usage, asked.model, provider_api_url=asked.base_urls[0], genai_request_timestamp=at + timedelta(hours=each)
        ).total_price
        for each in range(24)
    ]
    assert len({*of_hours}) > 1, "or it no longer goes by the hour"
    assert found.pop() == pytest.approx(1000 * float(max(of_hours)))


def test_a_price_of_each_request_is_no_price_of_tokens() -> None:
    found = price_of(endpoint(model="sonar", base_url="https://api.perplexity.ai"))
    assert isinstance(found, UnknownPrice)
    assert "with a price of each request" in found.reason
    assert "usd_per_million_prompt_tokens" in found.remedy
