"""`python -m services.engineer.scales SCALE [NAME=VALUE …]`: print a scale with overrides as JSON.

Exit status: 0, or 2 for an invalid scale, with a message on stderr.
"""

import json
import sys
from dataclasses import asdict

from services.engineer.scales import Scale, ScaleError, load_scale


def scale_of(arguments: list[str]) -> Scale:
    """The scale with overrides that the arguments name. Raises ScaleError."""
    if not arguments:
        raise ScaleError("Name a scale, then overrides as NAME=VALUE.")
    return load_scale(arguments[0], {name: value for name, _, value in (pair.partition("=") for pair in arguments[1:])})


def main(arguments: list[str]) -> int:
    """Print one scale and return the exit status."""
    try:
        scale = scale_of(arguments)
    except ScaleError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(asdict(scale) | {"steps": scale.steps}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
