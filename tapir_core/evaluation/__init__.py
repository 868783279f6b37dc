"""Scores of a student, and their statistics; makes no call.

- `alpaca_eval`, `mt_bench`, `vicuna`, `lm_eval`: one kind of benchmark each, by its published rules.
- `benchmark`, `marking`, `fastchat`: what every benchmark is; what those are that mark themselves, or are FastChat's.
- `annotations`, `length_control`: AlpacaEval's judgments and its regression.
- `rows`, `baseline`, `scores`: files, another run's answers, judgments and figures as rows.
- `heldout`: the run's own held-out set, which nobody judges.
- `statistics`, `bootstrap`: intervals and p-values of all of them.
"""
