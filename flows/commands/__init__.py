"""The commands of `tapir`, imported when one of theirs is given."""
