"""The way through OpenAI's Batch API. Start at `sending`."""
