"""``python -m netjail`` is the command line."""

from netjail.cli import main

if __name__ == "__main__":
    main()
