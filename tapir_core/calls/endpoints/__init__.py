"""The way to an endpoint: limits, retries, breaker and connections. Start at `line`."""
