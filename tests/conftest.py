"""Hypothesis for the whole suite: the same examples every time, no limit on one example's time, no files left."""

from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True, database=None)
settings.load_profile("project")
