"""The folder that our servers have on vLLM's path."""
