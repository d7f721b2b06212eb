"""The cognition base: reviewed entries from papers, their schema and their loader.

A file is TOML or JSON and holds papers, each with one to three entries; the shipped files are below `corpus/`, grouped
by family. Five prose fields follow section 3.4 of arXiv:2507.18074; only the trigger patterns are ever embedded.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from services.domain.components import normalise

SHIPPED = Path(__file__).parent / "corpus"
"""The reviewed files that come with the program."""


class CorpusError(ValueError):
    """A file of the cognition base is not as it must be. The message names the file, the paper and the field."""


def _one_line(text: object) -> object:
    """Prose is wrapped in the files and one line everywhere else."""
    return " ".join(text.split()) if isinstance(text, str) else text


def _known(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Component tags by their canonical names, each once."""
    return tuple(dict.fromkeys(normalise(tag) for tag in tags))


Insight = Annotated[str, BeforeValidator(_one_line), Field(min_length=40, max_length=500)]
Prose = Annotated[str, BeforeValidator(_one_line), Field(min_length=40, max_length=1600)]
Name = Annotated[str, BeforeValidator(_one_line), Field(min_length=2, max_length=300)]
Key = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
Tags = Annotated[tuple[str, ...], Field(min_length=1, max_length=8), AfterValidator(_known)]


class _Strict(BaseModel):
    """Unknown fields are refused: a misspelt field would otherwise be an empty one."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Entry(_Strict):
    """One piece of knowledge from a paper, in five fields, and the components that it is about."""

    key: Key
    design_insight: Insight
    experimental_trigger_patterns: Prose
    background: Prose
    algorithmic_innovation: Prose
    implementation_guidance: Prose
    components: Tags


class Paper(_Strict):
    """Where entries come from: title, authors, year of the first version, and an arXiv id or another address."""

    title: Name
    authors: Annotated[tuple[Name, ...], Field(min_length=1)]
    year: Annotated[int, Field(ge=1950, le=2100)]
    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")] | None = None
    url: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    entries: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=3, alias="entry")]

    @model_validator(mode="after")
    def _referable(self) -> Self:
        """An arXiv id begins with the year and month of the first version, which catches a wrong id or year."""
        if self.arxiv is None and self.url is None:
            raise ValueError("needs an arxiv id or a url, so that a reader can find it")
        if self.arxiv is not None and 2000 + int(self.arxiv[:2]) != self.year:
            raise ValueError(f"arxiv id {self.arxiv} was given out in 20{self.arxiv[:2]}, but year is {self.year}")
        keys = [entry.key for entry in self.entries]
        if len(set(keys)) != len(keys):
            raise ValueError(f"entry keys must differ within a paper, got {', '.join(keys)}")
        return self

    @property
    def reference(self) -> str:
        """The arXiv id where there is one, else the address."""
        return self.arxiv or self.url or ""


class CorpusFile(_Strict):
    """The whole of one file."""

    papers: Annotated[tuple[Paper, ...], Field(min_length=1, alias="paper")]


@dataclass(frozen=True)
class Knowledge:
    """An entry with the paper it is from."""

    paper: Paper
    entry: Entry

    @property
    def id(self) -> str:
        """Stable and unique in a corpus: the paper's reference and the entry's key."""
        return f"{self.paper.reference}#{self.entry.key}"


@dataclass(frozen=True)
class Corpus:
    """Papers in a fixed order: by file name, then as they stand in the file."""

    papers: tuple[Paper, ...]

    @cached_property
    def entries(self) -> tuple[Knowledge, ...]:
        """All entries, in the papers' order."""
        return tuple(Knowledge(paper, entry) for paper in self.papers for entry in paper.entries)

    @cached_property
    def _by_id(self) -> dict[str, Knowledge]:
        return {knowledge.id: knowledge for knowledge in self.entries}

    def entry(self, entry_id: str) -> Knowledge | None:
        """The entry with this id, or None."""
        return self._by_id.get(entry_id)


def _place(location: tuple[int | str, ...], papers: object) -> str:
    """Where a validation error is, in words: which paper, entry and field."""
    words: list[str] = []
    node = papers
    for depth, step in enumerate(location, start=1):
        node = _child(node, step)
        if isinstance(step, str):
            on_the_way = step in ("paper", "entry") and depth < len(location)
            words.append("" if on_the_way else f"field {step}")
        else:
            words.append(_label(node) or f"item {step + 1}")
    return ", ".join(word for word in words if word) or "the file as a whole"


def _child(node: object, step: int | str) -> object:
    """One step into parsed data; None where there is nothing, because errors also name what is missing."""
    if isinstance(node, dict):
        return node.get(step)
    if isinstance(node, list) and isinstance(step, int) and step < len(node):
        return node[step]
    return None


def _label(node: object) -> str | None:
    """How a person recognises a paper or an entry."""
    if not isinstance(node, dict):
        return None
    if "key" in node:
        return f"entry {node['key']!r}"
    name = node.get("arxiv") or node.get("title")
    return f"paper {name!r}" if name else None


def parse(text: str, source: str) -> CorpusFile:
    """Papers from the text of a TOML or JSON file; `source` is its name, for messages.

    Raises CorpusError with one sentence that names file, paper and field.
    """
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
    """The papers of one file; raises CorpusError, also when the file cannot be read."""
    if path.suffix not in (".toml", ".json"):
        raise CorpusError(f"{path.name}: must end in .toml or .json")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path.name}: cannot be read: {error}") from error
    return parse(text, path.name)


def join(papers: Iterable[Paper]) -> Corpus:
    """One corpus of papers; raises CorpusError when two entries have the same id.

    The same paper may come several times, because a user may add an entry to a shipped one.
    """
    corpus = Corpus(tuple(papers))
    seen: set[str] = set()
    for knowledge in corpus.entries:
        if knowledge.id in seen:
            raise CorpusError(f"entry {knowledge.id!r} is there twice: choose another key or leave one out")
        seen.add(knowledge.id)
    return corpus


def load(*folders: Path) -> Corpus:
    """All .toml and .json files of the folders (the shipped ones when none is given), in the order of their names."""
    files = [path for folder in folders or (SHIPPED,) for path in sorted(folder.glob("*")) if path.is_file()]
    return join(paper for path in files if path.suffix in (".toml", ".json") for paper in read(path).papers)


_UNSAFE = re.compile(r"[^a-z0-9.]+")


def add(file: Path, folder: Path) -> tuple[str, ...]:
    """Validate a file of papers and keep it in `folder`; returns the ids of the new entries.

    The whole base must still be consistent with it. Raises CorpusError, with nothing written, when it is not.
    """
    return keep(read(file), folder)


def keep(papers: CorpusFile, folder: Path) -> tuple[str, ...]:
    """As `add`, for papers already validated, for example proposals that a person approved."""
    additions = join(papers.papers)
    join((*together(folder).papers, *additions.papers))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, papers)
    return tuple(knowledge.id for knowledge in additions.entries)


def together(folder: Path) -> Corpus:
    """The shipped corpus and the additions in `folder`, which need not exist."""
    return load(SHIPPED, folder) if folder.is_dir() else load(SHIPPED)


def _write(folder: Path, papers: CorpusFile) -> None:
    """One new file per addition, renamed into place whole; earlier files are never overwritten."""
    stem = _UNSAFE.sub("-", papers.papers[0].reference.lower()).strip("-")[:80]
    number = 1
    while (target := folder / f"{stem}-{number}.json").exists():
        number += 1
    unfinished = target.with_suffix(".part")
    unfinished.write_text(papers.model_dump_json(indent=1, by_alias=True, exclude_none=True) + "\n", encoding="utf-8")
    unfinished.rename(target)
