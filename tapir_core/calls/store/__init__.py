"""Where answers, claims, batches and leases are kept: SQLite or PostgreSQL. Start at `answer_store`."""
