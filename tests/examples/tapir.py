"""The product's command line with an example beside it: `python -m tests.examples.tapir EXAMPLE WORD…`."""

import sys
from importlib import import_module

from flows.cli import main

if __name__ == "__main__":
    import_module(f"tests.examples.{sys.argv.pop(1)}")
    main()
