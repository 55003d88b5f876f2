"""`python -m controller`: the same as the script `turnout`."""

from controller.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
