"""A verifier: a Python function that scores an answer, shipped or the user's own. It runs in a child process only."""

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from tapir_core.config._base import DIFFERENT, Free, Section, matching

SHIPPED = ("exact", "numeric", "json_schema", "python_tests")
"""Functions of `tapir_core.verifiers`."""

VerifierUse = Literal["judge", "filter", "heldout"]
"""What a verifier's score stands for: a judge's verdict, whether a teacher's answer is usable, a held-out mark."""


class VerifierConfig(Section):
    """A function that scores answers from 0 to 1 (docs/verifiers.md); a text in place of the table is `function`."""

    function: Annotated[
        str,
        matching(
            rf"{'|'.join(SHIPPED)}|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*",
            f'is no verifier; write "module:function" for one of your own, or one of {", ".join(SHIPPED)}',
        ),
    ]
    """`module:function` of your own, or a shipped one: `exact`, `numeric`, `json_schema`, `python_tests`."""

    uses: Annotated[tuple[VerifierUse, ...], Field(min_length=1, strict=False), DIFFERENT] = (
        "judge",
        "filter",
        "heldout",
    )
    """`judge`: it scores in the judge's place where it can; `filter`: a teacher's answer that it finds wrong is
    unusable; `heldout`: it marks the held-out set in place of the exact final result."""

    only: bool = False
    """No judge is asked: an instruction that the verifier cannot score is unscored."""

    min_score: Annotated[float, Field(gt=0, le=1)] = 1.0
    """An answer that scores less is wrong: to the filter, and in the held-out set."""

    timeout_seconds: PositiveFloat = 10.0
    """Longest time for one answer."""

    memory_gib: PositiveFloat = 2.0
    """Most address space of its process, in GiB; one that imports a large library needs more."""

    folder: Free[str] = ""
    """Where its module is looked for, before the installed packages; left out: the configuration file's folder."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"function": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _only_as_judge(self) -> "VerifierConfig":
        if self.only and "judge" not in self.uses:
            raise ValueError('only = true asks no judge, and "judge" is not in uses; add it there, or leave `only` out')
        return self

    @property
    def module(self) -> str:
        """Where the function stands."""
        return "tapir_core.verifiers" if self.function in SHIPPED else self.function.partition(":")[0]

    @property
    def path(self) -> list[str]:
        """Folders in which modules are looked for, in this order."""
        return [str(Path(self.folder).absolute()), *(each for each in sys.path if each)]

    @property
    def source(self) -> str | None:
        """File of the user's module, found without running any of it; None where there is none, or it is shipped."""
        if self.function in SHIPPED:
            return None
        # Each part of a dotted name is looked for where the one before it says.
        folders, found = self.path, None
        for name in self.module.split("."):
            spec = PathFinder.find_spec(name, folders)
            if spec is None:
                return None
            folders, found = list(spec.submodule_search_locations or []), spec.origin
        return found if found is not None and Path(found).is_file() else None
