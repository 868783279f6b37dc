"""What a run has come to, and what its students got right: a pure reading of its folder, which works at any time.

Right is what stage `evaluate` calls right: the stated final result equals the reference; with a judged held-out set, by
the judge the student's answer matches or beats the teacher's.

Limits: a stage that does not hold (another configuration, a missing part) counts as not done. Seconds and calls are
those of a stage's last start; what a killed start had spent shows as answers from the store.
"""

from tapir_core.summary.reader import (
    RunReader,
    figures_of,
    headlines,
    marks_on_test,
    max_failed_share,
    measure_gain,
    read_progress,
    require_figures,
    summarise,
)
