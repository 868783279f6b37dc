"""Adapters to what does the heavy work: student server, trainer, stand-in, and the supervisor of their processes."""
