"""Imports an example, then runs the product's command line: `python -m tests.examples.tapir NAME COMMAND …`."""

import sys
from importlib import import_module

from flows.cli import main

if __name__ == "__main__":
    import_module(f"tests.examples.{sys.argv.pop(1)}")
    main()
