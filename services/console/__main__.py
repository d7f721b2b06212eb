"""`asi-arch`, also `python -m services.console`: the command line."""

from services.console.cli import main

if __name__ == "__main__":
    main()
