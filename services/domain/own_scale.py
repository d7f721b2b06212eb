"""A scale or a corpus of one's own, in the words of a scale that exists: its name and overrides as text."""

import tomllib
from collections.abc import Mapping

SCALES = ("mini", "tiny", "explore", "verify", "final")
SCALE_FILE = ".toml"
HUB = "hub:"
BASE = "base"


def parse_scale_file(content: str, name: str) -> tuple[str, dict[str, str]]:
    """The scale that a file names as its `base`, and what the file changes of it. Raises ValueError naming the file."""
    try:
        values = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} is not TOML: {error}") from None
    base = values.pop(BASE, None)
    if base not in SCALES:
        raise ValueError(f'{name} has the base {base!r}; begin it with base = "NAME", one of {", ".join(SCALES)}')
    values.pop("name", None)
    return base, {field: _text(name, field, value) for field, value in values.items()}


def corpus_overrides(corpus: str) -> Mapping[str, str]:
    """What a scale trains on instead: hub:NAME or hub:NAME@CONFIG, else the path of a folder or file.

    The tokenizer stays the scale's own, which is bytes where it names none.
    """
    if not corpus.startswith(HUB):
        return {"corpus": "files", "dataset": corpus, "dataset_config": ""}
    dataset, _, config = corpus.removeprefix(HUB).partition("@")
    return {"corpus": "hub", "dataset": dataset, "dataset_config": config}


def _text(name: str, field: str, value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ",".join(str(item) for item in value)
        case str() | int() | float():
            return str(value)
        case _:
            raise ValueError(f"{name}: {field} must be a text, a number, true or false, or a list of texts")
