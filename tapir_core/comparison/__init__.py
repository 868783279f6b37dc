"""Arms against each other: which runs a comparison has, how they are matched, what came of them."""
