"""`python -m trimodal` is the command line."""

from trimodal.cli import main

if __name__ == "__main__":
    main()
