"""`python -m shirg`, the same as the command `shirg`."""

from shirg.cli import main

if __name__ == "__main__":
    main()
