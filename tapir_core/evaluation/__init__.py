"""Scores of a student: verifiable answers, benchmarks from given judgments, and the statistics of both."""
