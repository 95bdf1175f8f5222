"""`python -m chip` is `chip`."""

from chip.cli import main

if __name__ == "__main__":
    main()
