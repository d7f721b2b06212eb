"""`asi-arch tree`: who descends from whom."""

import asyncio

from services.console.archive import open_archive
from services.console.options import Json, Run, RunArgument, chosen_run, print_json
from services.console.rows import Node, tree_row
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import family, say
from services.contracts import archive_pb2 as pb


def tree(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """The phylogenetic tree of a run: children below their parent, the best first."""
    name, nodes = asyncio.run(_nodes(console_settings(), chosen_run(argument, run)))
    if as_json:
        print_json(nodes)
    else:
        say(f"run {name}: {len(nodes)} candidates")
        say(family(nodes))


async def _nodes(settings: ConsoleSettings, run: str) -> tuple[str, list[Node]]:
    async with open_archive(settings) as archive:
        status = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
        reply = await archive.GetTree(pb.RunRequest(run=status.run), timeout=30)
        return status.run, [tree_row(node) for node in reply.nodes]
