"""How an endpoint of the configuration is called: addresses, key, limits, and what a token costs there."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from tapir_core.calls import Endpoint, EndpointSource
from tapir_core.calls.prices import Price, price_of
from tapir_core.config import EndpointConfig, OpenAIEndpoint, RunConfig, StandinEndpoint, by_kind
from tasks.engines.endpoints import api_key
from tasks.engines.standin_server import StandinServers

__all__ = ["EndpointHost", "open_endpoint", "provider_endpoint"]


class EndpointHost(Protocol):
    """What the process has in which an endpoint is called."""

    config: RunConfig

    @property
    def standins(self) -> StandinServers:
        """Stand-in servers that the run started."""

    def reach(self, addresses: Sequence[str], field: str) -> None:
        """Refuse addresses at none of which anything answers."""


@by_kind(EndpointConfig)
def open_endpoint(endpoint: EndpointConfig, host: EndpointHost, field: str) -> EndpointSource:
    """What gives the endpoint when a call must be made; ``field`` sets it.

    Raises:
        MissingPrerequisite: its key is not there; when called, that nothing answers.
    """
    raise NotImplementedError


@open_endpoint.register
def _(endpoint: StandinEndpoint, host: EndpointHost, _field: str) -> EndpointSource:
    concurrency, batch = host.config.calls.concurrency, endpoint.in_batches
    return lambda: replace(host.standins.endpoint(endpoint, concurrency), batch=batch)


@open_endpoint.register
def _(endpoint: OpenAIEndpoint, host: EndpointHost, field: str) -> EndpointSource:
    key = api_key(endpoint.api_key_env, field, file=endpoint.api_key_file)

    def source() -> Endpoint:
        host.reach(endpoint.base_urls, field)
        return provider_endpoint(endpoint, key, host.config.calls.concurrency)

    return source


def provider_endpoint(provider: OpenAIEndpoint, key: str | None, concurrency: int) -> Endpoint:
    """The endpoint of a provider; what has no price is spent at 0, since `missing_prices` refuses a cap on USD then."""
    price = price_of(provider)
    per_million = price.in_mode(provider.mode) if isinstance(price, Price) else None
    return Endpoint(
        base_url=provider.base_urls[0],
        more_base_urls=provider.base_urls[1:],
        requests_per_minute=provider.requests_per_minute,
        tokens_per_minute=provider.tokens_per_minute,
        concurrency=concurrency,
        api_key=key,
        api_key_env=provider.api_key_env,
        api_key_file=provider.api_key_file,
        usd_per_million_prompt_tokens=per_million.usd_per_million_prompt_tokens if per_million else 0.0,
        usd_per_million_completion_tokens=per_million.usd_per_million_completion_tokens if per_million else 0.0,
        batch=provider.in_batches,
    )
