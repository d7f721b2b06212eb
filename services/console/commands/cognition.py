"""`asi-arch cognition`: the cognition base, a tool of the analyst's."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence

import typer

from services.console.archive import run_and_candidates
from services.console.commands.tools import passes_arguments_on
from services.console.settings import console_settings
from services.contracts.candidate_pb2 import Candidate


@passes_arguments_on
def cognition(context: typer.Context) -> None:
    """The cognition base: search QUERY, add FILE, ingest PAPER, stats [--run NAME]."""
    arguments, given = list(context.args), None
    if arguments[:1] == ["stats"]:
        run = arguments.pop(arguments.index("--run") + 1) if "--run" in arguments[:-1] else ""
        arguments = [argument for argument in arguments if argument != "--run"]
        _, records = asyncio.run(run_and_candidates(console_settings(), run))
        given = json.dumps(_uses(records))
    command = [sys.executable, "-m", "services.analyst.cognition", *arguments]
    raise typer.Exit(subprocess.run(command, input=given, text=True, check=False).returncode)


def _uses(records: Sequence[Candidate]) -> list[dict[str, object]]:
    """For each candidate with a parent: the entries it was shown, and its gain in fitness where both were scored."""
    fitness = {record.id: record.verdict.fitness.value for record in records if record.verdict.HasField("fitness")}
    return [
        {
            "entries": [hit.entry for hit in record.proposal.cognition],
            "gain": fitness[record.id] - fitness[record.proposal.parent]
            if record.id in fitness and record.proposal.parent in fitness
            else None,
        }
        for record in records
        if record.proposal.parent
    ]
