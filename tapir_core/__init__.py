"""The method and the paid-call engine. Imports neither Prefect nor torch, vLLM, DeepSpeed or transformers."""
