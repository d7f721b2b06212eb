"""`python -m services.analyst.cognition`: search, extend and evaluate the cognition base, for the command line.

Exit status: 0 for success, 1 for no result or a refusal, 2 for invalid input.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from services.analyst.app import AnalystSettings
from services.analyst.cognition import CorpusError, CorpusFile, add, ingest, read
from services.analyst.cognition.ingest import Use, statistics_of
from services.analyst.library import Library
from services.chassis import logs
from services.chassis.errors import Rejected, SettingsError, Transient, sentence
from services.chassis.settings import load
from services.llm.budget import MemoryLedger
from services.llm.openai_embedder import endpoint_embedder
from services.llm.openai_mind import OpenAIMind

_USES = TypeAdapter(tuple[Use, ...])


async def main(arguments: argparse.Namespace, settings: AnalystSettings) -> int:
    """Run a command; returns its exit status."""
    if arguments.command == "search":
        return await _search(arguments, settings)
    if arguments.command == "add":
        return _report(arguments, add(read(arguments.file), settings.own_entries))
    if arguments.command == "ingest":
        return await _ingest(arguments, settings)
    return _stats(arguments)


async def _search(arguments: argparse.Namespace, settings: AnalystSettings) -> int:
    library = Library(settings.own_entries, settings.threshold, endpoint_embedder(os.environ))
    query = " ".join(arguments.query)
    if arguments.count < 1:
        raise ValueError(f"--count is {arguments.count}; give a whole number from 1")
    hits = (await library.search(query, arguments.count, vector=await library.embedded(query))).hits
    if arguments.json:
        print(json.dumps([{"id": hit.knowledge.id, "similarity": hit.similarity} for hit in hits], indent=2))
    elif not hits:
        print("no entry is similar enough to this description")
    for hit in () if arguments.json else hits:
        paper = hit.knowledge.paper
        print(f"{hit.similarity:.2f}  {hit.knowledge.id}  {paper.title} ({paper.year})")
        print(f"      {hit.knowledge.entry.design_insight}")
    return 0 if hits else 1


async def _ingest(arguments: argparse.Namespace, settings: AnalystSettings) -> int:
    """Show the extracted entries, and add them if they are approved."""
    async with OpenAIMind.from_environment(os.environ, MemoryLedger()) as mind:
        proposed: CorpusFile = await ingest.propose(arguments.file, mind)
    for paper in proposed.papers:
        _show(f"{paper.title} ({paper.reference}, {paper.year})")
        for entry in paper.entries:
            _show(f"  {entry.key}: {entry.design_insight}\n    seen when: {entry.experimental_trigger_patterns}")
    if not arguments.yes:
        _show("keep these entries? [y/N] ")
        if (await asyncio.to_thread(sys.stdin.readline)).strip().lower() not in ("y", "yes"):
            _show("nothing was kept")
            return 1
    return _report(arguments, add(proposed, settings.own_entries))


def _show(text: str) -> None:
    """Write to standard error, apart from the output."""
    sys.stderr.write(f"{text}\n")


def _stats(arguments: argparse.Namespace) -> int:
    """Print statistics of the uses on standard input, a JSON array. Raises ValueError naming the expected form."""
    try:
        uses = json.load(sys.stdin)
    except json.JSONDecodeError as error:
        form = '[{"entries": ["ID"], "gain": 0.1}]'
        raise ValueError(f"standard input is not JSON ({error}); give candidates as {form}, gain may be null") from None
    rows = statistics_of(_USES.validate_python(uses))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    for row in () if arguments.json else rows:
        gain = "–" if row.mean_gain is None else f"{row.mean_gain:+.3f}"
        print(f"{row.improved:>3} of {row.measured:<3} improved  mean gain {gain}  {row.entry}")
    if not rows and not arguments.json:
        print("no candidate of this run used an entry")
    return 0 if rows else 1


def _report(arguments: argparse.Namespace, ids: tuple[str, ...]) -> int:
    print(json.dumps(list(ids)) if arguments.json else f"kept {len(ids)}: {', '.join(ids)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asi-arch cognition", description="The cognition base: entries from papers.")
    commands = parser.add_subparsers(dest="command", required=True)
    search = commands.add_parser("search", help="entries with trigger patterns similar to a description")
    search.add_argument("query", nargs="+", help="words that describe what an experiment showed")
    search.add_argument("--count", type=int, default=3, help="largest number of entries; default: %(default)s")
    form = "TOML or JSON, as in services/analyst/cognition/corpus"
    new = commands.add_parser("add", help=f"add a file of papers ({form})")
    new.add_argument("file", type=Path)
    paper = commands.add_parser("ingest", help="extract entries from a .pdf, .md or .tex by a language model")
    paper.add_argument("file", type=Path)
    paper.add_argument("--yes", action="store_true", help="add them without confirmation")
    stats = commands.add_parser("stats", help="statistics of the entries that candidates used")
    stats.add_argument("--run", metavar="NAME", help="the run; default: the newest")  # which the caller reads
    for command in (search, new, paper, stats):
        command.add_argument("--json", action="store_true", help="machine-readable output")
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status. Errors are one sentence on standard error."""
    try:
        return asyncio.run(main(_parser().parse_args(argv), load(AnalystSettings, "analyst")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(step) for step in first["loc"]) or "the whole"
        return _refused(f"standard input, {field}: {first['msg']}", 2)
    except (CorpusError, SettingsError, ValueError, FileNotFoundError) as error:
        return _refused(str(error), 2)
    except (Rejected, Transient, OSError) as error:
        return _refused(sentence(error), 1)


def _refused(reason: str, status: int) -> int:
    sys.stderr.write(f"asi-arch: {reason}\n")
    return status


if __name__ == "__main__":
    logs.configure_for_people()
    sys.exit(run())
