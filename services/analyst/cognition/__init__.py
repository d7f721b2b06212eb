"""The cognition base: reviewed entries from papers, their schema and their loader.

A file is TOML or JSON and holds papers, each with one to three entries; the shipped files are below `corpus/`, grouped
by family. Five prose fields follow section 3.4 of arXiv:2507.18074; only the trigger patterns are ever embedded.
"""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from services.chassis.errors import reason_of
from services.domain.components import VOCABULARY

SHIPPED = Path(__file__).parent / "corpus"
"""The shipped, reviewed files."""


class CorpusError(ValueError):
    """A file of the cognition base is invalid. The message names the file, the paper and the field."""


def _one_line(text: object) -> object:
    """Unwrap prose, which is wrapped in the files."""
    return " ".join(text.split()) if isinstance(text, str) else text


def _normalised(tags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(VOCABULARY.normalise, tags)))


Insight = Annotated[str, BeforeValidator(_one_line), Field(min_length=40, max_length=500)]
Prose = Annotated[str, BeforeValidator(_one_line), Field(min_length=40, max_length=1600)]
Name = Annotated[str, BeforeValidator(_one_line), Field(min_length=2, max_length=300)]
Key = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
Tags = Annotated[tuple[str, ...], Field(min_length=1, max_length=8), AfterValidator(_normalised)]


class _Strict(BaseModel):
    """Refuses unknown fields, such as misspelt ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Entry(_Strict):
    """An insight of a paper in five fields, and its components."""

    key: Key
    design_insight: Insight
    experimental_trigger_patterns: Prose
    background: Prose
    algorithmic_innovation: Prose
    implementation_guidance: Prose
    components: Tags


class Paper(_Strict):
    """A paper: title, authors, year of the first version, and an arXiv id or another URL; with its entries."""

    title: Name
    authors: Annotated[tuple[Name, ...], Field(min_length=1)]
    year: Annotated[int, Field(ge=1950, le=2100)]
    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")] | None = None
    url: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    entries: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=3, alias="entry")]

    @model_validator(mode="after")
    def _require_reference(self) -> Self:
        """Check the arXiv id against the year of the first version, with which it begins."""
        if self.arxiv is None and self.url is None:
            raise ValueError("needs an arxiv id or a url, so that a reader can find it")
        if self.arxiv is not None and 2000 + int(self.arxiv[:2]) != self.year:
            raise ValueError(f"arxiv id {self.arxiv} is of 20{self.arxiv[:2]}, but year is {self.year}")
        keys = [entry.key for entry in self.entries]
        if len(set(keys)) != len(keys):
            raise ValueError(f"entry keys must differ within a paper, got {', '.join(keys)}")
        return self

    @property
    def reference(self) -> str:
        return self.arxiv or self.url or ""


class CorpusFile(_Strict):
    """The content of a file."""

    papers: Annotated[tuple[Paper, ...], Field(min_length=1, alias="paper")]


@dataclass(frozen=True)
class Knowledge:
    """An entry and its paper."""

    paper: Paper
    entry: Entry

    @property
    def id(self) -> str:
        """Stable and unique in a corpus: the paper's reference and the entry's key."""
        return f"{self.paper.reference}#{self.entry.key}"


@dataclass(frozen=True)
class Corpus:
    """Papers, ordered by file name, then as in the file."""

    papers: tuple[Paper, ...]

    @cached_property
    def entries(self) -> tuple[Knowledge, ...]:
        return tuple(Knowledge(paper, entry) for paper in self.papers for entry in paper.entries)

    def entry(self, entry_id: str) -> Knowledge | None:
        return next((knowledge for knowledge in self.entries if knowledge.id == entry_id), None)


def _place(location: tuple[int | str, ...], papers: object) -> str:
    """The paper, entry and field of a validation error."""
    words: list[str] = []
    node = papers
    for depth, step in enumerate(location, start=1):
        if isinstance(node, list) and isinstance(step, int):
            node = node[step] if step < len(node) else None
        else:  # None if it is missing, as in errors about missing fields
            node = node.get(step) if isinstance(node, dict) else None
        if isinstance(step, str):
            intermediate = step in ("paper", "entry") and depth < len(location)
            words.append("" if intermediate else f"field {step}")
        else:
            words.append(_label(node) or f"item {step + 1}")
    return ", ".join(word for word in words if word) or "the file as a whole"


def _label(node: object) -> str | None:
    """The name of a paper or an entry."""
    if not isinstance(node, dict):
        return None
    if "key" in node:
        return f"entry {node['key']!r}"
    name = node.get("arxiv") or node.get("title")
    return f"paper {name!r}" if name else None


def parse(text: str, source: str) -> CorpusFile:
    """Papers from a TOML or JSON text of the file `source`. Raises CorpusError that names file, paper and field."""
    try:
        raw = json.loads(text) if source.endswith(".json") else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise CorpusError(f"{source}: cannot be parsed: {error}") from error
    try:
        return CorpusFile.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CorpusError(f"{source}: {_place(first['loc'], raw)}: {first['msg']}") from error


def read(path: Path) -> CorpusFile:
    """The papers of one file; raises CorpusError for an unreadable or invalid file."""
    if path.suffix not in (".toml", ".json"):
        raise CorpusError(f"{path.name}: must end in .toml or .json")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path.name}: cannot be read: {reason_of(error)}") from error
    return parse(text, path.name)


def join(papers: Iterable[Paper]) -> Corpus:
    """A corpus of papers. Raises CorpusError for duplicate ids of entries.

    A paper may occur several times, since users can add entries to a shipped one.
    """
    corpus = Corpus(tuple(papers))
    for entry_id, count in Counter(knowledge.id for knowledge in corpus.entries).items():
        if count > 1:
            raise CorpusError(f"entry {entry_id!r} exists twice: choose another key or omit one")
    return corpus


def load(*folders: Path) -> Corpus:
    """All .toml and .json files of the folders (by default the shipped ones), ordered by name."""
    files = [path for folder in folders or (SHIPPED,) for path in sorted(folder.glob("*")) if path.is_file()]
    return join(paper for path in files if path.suffix in (".toml", ".json") for paper in read(path).papers)


_UNSAFE = re.compile(r"[^a-z0-9.]+")


def add(papers: CorpusFile, folder: Path) -> tuple[str, ...]:
    """Add papers to `folder`; the ids of the new entries. Raises CorpusError, without writing, if they do not fit."""
    additions = join(papers.papers)
    join((*load_with(folder).papers, *additions.papers))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, papers)
    return tuple(knowledge.id for knowledge in additions.entries)


def load_with(folder: Path) -> Corpus:
    """The shipped corpus and the additions in `folder`, if it exists."""
    return load(SHIPPED, folder) if folder.is_dir() else load(SHIPPED)


def _write(folder: Path, papers: CorpusFile) -> None:
    """Write a new file atomically; existing files are never overwritten."""
    stem = _UNSAFE.sub("-", papers.papers[0].reference.lower()).strip("-")[:80]
    number = 1
    while (target := folder / f"{stem}-{number}.json").exists():
        number += 1
    unfinished = target.with_suffix(".part")
    unfinished.write_text(papers.model_dump_json(indent=1, by_alias=True, exclude_none=True) + "\n", encoding="utf-8")
    unfinished.rename(target)
