"""What relations between tasks are worth on every table: controls, relations, and an upper bound."""
