import re
import subprocess
import sys

from tapir_core.standin import STANDIN_VERSION


def test_the_version_is_the_same_in_every_process() -> None:
    code = "from tapir_core.standin import STANDIN_VERSION; print(STANDIN_VERSION)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == STANDIN_VERSION
    assert re.fullmatch("[0-9a-f]{12}", STANDIN_VERSION)
