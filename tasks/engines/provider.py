"""How a provider of the configuration is called: addresses, key, limits, and what a token costs there."""

from tapir_core.calls import Endpoint
from tapir_core.calls.prices import Price, price_of
from tapir_core.config import OpenAIEndpoint

__all__ = ["provider_endpoint"]


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
        batch=provider.batch if provider.mode == "batch" else None,
    )
