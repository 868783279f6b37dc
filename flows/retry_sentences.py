"""What asking the judge again says, on the command line and in Prefect's UI."""

from collections.abc import Mapping, Sequence

from tapir_core.stages import StageAt

__all__ = ["changes_sentence", "counts_sentence", "nothing_sentence"]


def nothing_sentence(*, also_terminal: bool) -> str:
    """Nothing was missing."""
    return "Nothing to ask again: no verdict is missing" + ("." if also_terminal else "; see --also terminal.")


def counts_sentence(counts: Mapping[str, int]) -> str:
    """What a round lacked before and lacks now."""
    return (
        f"Round {counts['round']}: {counts['missing_before']} verdicts missing before, {counts['missing_after']} now; "
        f"{counts['unscored_before']} unscored before, {counts['unscored_after']} now."
    )


def changes_sentence(stale: Sequence[StageAt], *, redone: bool) -> str:
    """Which stages the new verdicts change."""
    if not stale:
        return "No stage changes."
    done = " and that were redone" if redone else ""
    return f"Stages that the new verdicts change{done}: {', '.join(map(str, stale))}."
