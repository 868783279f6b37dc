"""The pool and the held-out set of a configuration: read from a file, or made by the stand-in.

A kind of your own registers what reads it with `read_pool_of.register` or `read_heldout_of.register`.
"""

from tapir_core import config
from tapir_core.data.readers import Found, read_heldout, read_pool
from tapir_core.randomness import derive_rng
from tapir_core.standin.pool import standin_heldout, standin_pool


@config.by_kind(config.PoolConfig)
def read_pool_of(source: config.PoolConfig, data: config.DataConfig, seed: int) -> Found:
    """The pool D; ``seed`` is the run's, of which every draw derives.

    Raises:
        ConfigError: it cannot be read, or has bad rows.
    """
    raise NotImplementedError


@read_pool_of.register
def _(source: config.FilePool, data: config.DataConfig, seed: int) -> Found:
    return read_pool(source.path, on_bad_row=data.on_bad_row, limit=source.limit, rng=derive_rng(seed, "pool"))


@read_pool_of.register
def _(source: config.StandinPool, _data: config.DataConfig, seed: int) -> Found:
    return Found(standin_pool(source.rows, source.max_level, seed))


@config.by_kind(config.HeldoutConfig)
def read_heldout_of(source: config.HeldoutConfig, data: config.DataConfig, seed: int) -> Found:
    """The held-out set; ``seed`` is the run's.

    Raises:
        ConfigError: it cannot be read, or has bad rows.
    """
    raise NotImplementedError


@read_heldout_of.register
def _(source: config.FileHeldout, data: config.DataConfig, _seed: int) -> Found:
    return read_heldout(source.path, on_bad_row=data.on_bad_row)


@read_heldout_of.register
def _(source: config.StandinHeldout, _data: config.DataConfig, seed: int) -> Found:
    return Found(standin_heldout(source.dev, source.test, source.max_level, seed))
