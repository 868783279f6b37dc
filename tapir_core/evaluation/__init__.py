"""Scores of a student, and their statistics; makes no call.

- `alpaca_eval`, `mt_bench`, `vicuna`, `lm_eval`: one kind of benchmark each, by its published rules.
- `benchmark`, `marking`, `fastchat`: what every benchmark is; what those are that mark themselves, or are FastChat's.
- `annotations`, `length_control`: AlpacaEval's judgments and its regression.
- `rows`, `baseline`: files, another run's answers.
- `scores`: judgments and figures as rows; the run's own held-out set, which nobody judges.
- `statistics`: intervals and p-values of all of them.
"""
