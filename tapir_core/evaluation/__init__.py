"""Scores of a student, and their statistics; makes no call.

- `benchmark`, `rows`: what every benchmark is, and what it reads: files, another run's answers.
- `alpaca_eval`, `mt_bench`, `vicuna`: benchmarks that ask a judge, by their published rules.
- `marking`: those that mark answers themselves, lm-evaluation-harness's among them.
- `length_control`: AlpacaEval's regression.
- `scores`: judgments and figures as rows; the run's own held-out set, which nobody judges.
- `statistics`: intervals and p-values of all of them.
"""
