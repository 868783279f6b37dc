import re
import subprocess
import sys

import pytest

from tapir_core.standin import POOL_VERSION, STANDIN_VERSION


@pytest.mark.parametrize(("name", "version"), [("STANDIN_VERSION", STANDIN_VERSION), ("POOL_VERSION", POOL_VERSION)])
def test_a_version_is_the_same_in_every_process(name: str, version: str) -> None:
    code = f"from tapir_core.standin import {name}; print({name})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == version
    assert re.fullmatch("[0-9a-f]{12}", version)
