"""The offline teacher and judge for verifiable instructions. Rule-based; no LLM (docs/standin.md).

Limits: it knows its own families and refuses everything else. The server starts without polars; the tables of pool and
held-out set are made in ``tapir_core.standin.pool``.
"""

from tapir_core.standin.version import POOL_VERSION, STANDIN_VERSION

__all__ = ["POOL_VERSION", "STANDIN_VERSION"]
