"""Relations between tasks: matrices, models of related tasks, clusters."""
