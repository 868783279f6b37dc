"""What `tapir doctor` looks at: the machine, the root of all runs, the Prefect server, and one configuration."""

from flows.commands.diagnosis.finding import Check, Finding, examine
from flows.commands.diagnosis.whole import diagnose

__all__ = ["Check", "Finding", "diagnose", "examine"]
