"""Scores of a student: the check of verifiable answers."""
