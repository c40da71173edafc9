"""`python -m paper`, from the root of the repository."""

from paper.cli import main

main()
