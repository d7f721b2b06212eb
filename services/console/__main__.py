"""`asi-arch`, also `python -m services.console`: the command line."""

import os
import signal


def main() -> None:
    """The entry point. An interrupt while the command line is imported ends it with status 130, without a traceback."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else ignored, as for jobs in the background
    if usual:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from services.console.cli import main as command_line

    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command_line()


if __name__ == "__main__":
    main()
