"""`python -m services.engineer.scales SCALE [NAME=VALUE …] [--read]`: print a scale with overrides as JSON.

With `--read`, the user's own files that it names are read: its text, and its tasks if all of them are known without
listing those of the harness, which takes as long as starting an engineer. Exit status: 0, or 2 for an invalid scale or
file, with a message on stderr.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from services.engineer.scales import Scale, ScaleError, load_scale


def scale_of(arguments: list[str]) -> Scale:
    """The scale with overrides that the arguments name. Raises ScaleError."""
    if not arguments:
        raise ScaleError("Name a scale, then overrides as NAME=VALUE.")
    return load_scale(arguments[0], {name: value for name, _, value in (pair.partition("=") for pair in arguments[1:])})


def read_files(scale: Scale) -> None:
    """Raises ScaleError for files of the scale that an engineer on this machine would refuse."""
    from services.engineer.data import CorpusError, open_corpus
    from services.engineer.evaluation.tasks import EvaluationUnavailable, require_tasks

    try:
        require_tasks(scale, shipped=False)
        if scale.corpus == "files":
            cache = Path(os.environ.get("ASI_DATA_DIR") or ".data") / "data"
            open_corpus(scale, cache, os.environ.get("ASI_ENGINEER_TEXT_SEED"))
    except (CorpusError, EvaluationUnavailable) as error:
        raise ScaleError(str(error)) from None
    except OSError as error:
        raise ScaleError(f"{error.filename or scale.dataset}: {error.strerror or error}.") from None


def main(arguments: list[str]) -> int:
    try:
        scale = scale_of([argument for argument in arguments if argument != "--read"])
        if "--read" in arguments:
            read_files(scale)
    except ScaleError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(asdict(scale) | {"steps": scale.steps}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
