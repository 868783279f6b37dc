"""What a token costs: the price in the configuration, else the list price in `genai-prices`, else unknown.

Works offline: list prices come with the installed library. An unknown price is a value with a remedy, never 0: a cap
cannot hold without a price.

Limits: list prices are without tax, contracts, surcharges of some providers for very long prompts, and discounts on
cached ones. There are no prices of embeddings, images and sound.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from tapir_core.calls.types import Priced, is_local
from tapir_core.config import EndpointConfig, OpenAIEndpoint, RunConfig, StandinEndpoint, VllmEndpoint, by_kind

_PROBE_TOKENS = 1000
"""Tokens to price: few, so that the price has no surcharge for long prompts."""


@dataclass(frozen=True, slots=True)
class Price(Priced):
    """A price that is known."""

    source: str
    """Where it comes from, for messages."""


@dataclass(frozen=True, slots=True)
class UnknownPrice:
    """The price of an endpoint is unknown."""

    reason: str
    remedy: str


@by_kind(EndpointConfig)
def price_of(endpoint: EndpointConfig) -> Price | UnknownPrice:
    """The price of ``endpoint``: free for the stand-in, and for an address of this machine or network without a price.

    Of several addresses the most expensive counts; one without a price makes the price unknown.
    """
    raise NotImplementedError  # never runs: `by_kind` names the kind that lacks it


@price_of.register
def _(_endpoint: StandinEndpoint) -> Price | UnknownPrice:
    return Price("the stand-in costs nothing")


@price_of.register
def _(_endpoint: VllmEndpoint) -> Price | UnknownPrice:
    return Price("the run serves it itself")


@price_of.register
def _(endpoint: OpenAIEndpoint) -> Price | UnknownPrice:
    prompt, completion = endpoint.usd_per_million_prompt_tokens, endpoint.usd_per_million_completion_tokens
    if prompt is not None and completion is not None:
        return Price(
            "the configuration", usd_per_million_prompt_tokens=prompt, usd_per_million_completion_tokens=completion
        )
    if prompt is not None or completion is not None:
        return UnknownPrice("only one of the two prices is set", _remedy(endpoint))
    found = [_price_at(endpoint, address) for address in endpoint.base_urls]
    unknown = [each for each in found if isinstance(each, UnknownPrice)]
    return (
        unknown[0]
        if unknown
        else max((each for each in found if isinstance(each, Price)), key=lambda price: price.usd(1, 1))
    )


def missing_prices(config: RunConfig) -> list[str]:
    """Unknown prices that a cap on USD needs, one line each; empty without such a cap."""
    if all(each.usd is None for each in (config.budget, *config.budget.stages.values())):
        return []
    prices = {name: price_of(endpoint) for name, endpoint in config.endpoints.items()}
    return [
        f"{name}: budget.usd cannot be kept, {price.reason}; {price.remedy}"
        for name, price in prices.items()
        if isinstance(price, UnknownPrice)
    ]


def _price_at(endpoint: OpenAIEndpoint, address: str) -> Price | UnknownPrice:
    if is_local(address):
        return Price("a local address costs nothing")
    from genai_prices import Usage, calc_price  # its table of models takes a moment to load

    usage, now = Usage(input_tokens=_PROBE_TOKENS, output_tokens=_PROBE_TOKENS), datetime.now(UTC)
    try:
        # Some prices go by the hour of the day: at the highest one a cap is kept.
        found = max(
            (
                calc_price(usage, endpoint.model, provider_api_url=address, genai_request_timestamp=at)
                for at in (now - timedelta(hours=ago) for ago in range(24))
            ),
            key=lambda each: each.total_price,
        )
    except LookupError:
        return UnknownPrice(
            f"genai-prices knows no price of {endpoint.model!r} at {urlsplit(address).hostname}", _remedy(endpoint)
        )
    if found.total_price != found.input_price + found.output_price:
        return UnknownPrice(f"genai-prices lists {found.model.id!r} with a price of each request", _remedy(endpoint))
    if not found.total_price:
        return UnknownPrice(f"genai-prices lists {found.model.id!r} without a price", _remedy(endpoint))
    per_million = 1e6 / _PROBE_TOKENS
    return Price(
        f"the list price of {found.model.id} at {found.provider.name} (genai-prices)",
        usd_per_million_prompt_tokens=float(found.input_price) * per_million,
        usd_per_million_completion_tokens=float(found.output_price) * per_million,
    )


def _remedy(endpoint: OpenAIEndpoint) -> str:
    return (
        f"set usd_per_million_prompt_tokens and usd_per_million_completion_tokens beside model = {endpoint.model!r} "
        "(0 if it is free)"
    )
