"""What each command of `tapir` does around the flows: check, show progress, print what came of it."""
