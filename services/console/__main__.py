"""`asi-arch`, also `python -m services.console`: the command line."""

import os
import signal
import sys


def main() -> None:
    """The entry point. An interrupt while the command line is imported ends it with status 130, without a traceback.

    A package that a command needs may be missing where only the extra of one service is installed.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else ignored, as for jobs in the background
    if usual:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        from services.console.cli import main as command_line

        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command_line()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "services"):
            raise
        sys.exit(f"asi-arch: this needs the package {missing}, which is not installed: pip install 'asi-arch[all]'")


if __name__ == "__main__":
    main()
