"""`python -m services.engineer.scales SCALE [NAME=VALUE …]`: print a scale with overrides as JSON.

Exit status: 0, or 2 for an invalid scale, with a message on stderr.
"""

import json
import sys
from dataclasses import asdict

from services.engineer.scales import ScaleError, load_scale


def main(arguments: list[str]) -> int:
    """Print one scale and return the exit status."""
    if not arguments:
        sys.stderr.write("Name a scale, then overrides as NAME=VALUE.\n")
        return 2
    overrides = {name: value for name, _, value in (argument.partition("=") for argument in arguments[1:])}
    try:
        scale = load_scale(arguments[0], overrides)
    except ScaleError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(asdict(scale) | {"steps": scale.steps}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
