"""A verifier of a user's: nothing is known of an answer without a reference."""


def score(instruction, answer, reference):
    return None if reference is None else float(answer.endswith(reference))
