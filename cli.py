"""Runs the command line from a checkout: `python cli.py edit …` is `chip edit …`."""

from chip.cli import main

if __name__ == "__main__":
    main()
