"""Training: the outer loop, its state on disk, and what happens to steps that are not finite."""
