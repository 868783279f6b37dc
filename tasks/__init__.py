"""Stages as Prefect tasks: read, call the core or an engine, write, return a reference."""
