"""Additions: what users teach the cognition base, kept beside the shipped files as validated JSON."""

from __future__ import annotations

import re
from pathlib import Path

from services.analyst.cognition.corpus import SHIPPED, Corpus, CorpusFile, join, load, read

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
