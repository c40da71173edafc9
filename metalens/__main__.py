"""`python -m metalens`."""

from metalens.cli import main

main()
