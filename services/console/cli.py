"""The entry point of the command line: the list of commands, which are imported on use, and error handling."""

import atexit
import gc
import inspect
import io
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
import typer.core

from services import __version__
from services.chassis.errors import (
    BusLost,
    Denied,
    NotFound,
    NotPossible,
    SettingsError,
    Transient,
    printable,
    sentence,
)
from services.console.options import INTERRUPTED, PASS_ON

if TYPE_CHECKING:
    import grpc.aio

EXIT_STATUS = (
    "Exit status: 0 success; 1 negative result (unknown name, failed check, run without a result, service "
    "unavailable); 2 invalid flag, file or setting; 130 interrupted and drained. Errors are one sentence on "
    "standard error. Colours: on a terminal only, never with NO_COLOR set. State is stored below ASI_DATA_DIR."
)


class Command(NamedTuple):
    """A command of the overview; `module` below `commands/` has a function of its name."""

    module: str
    summary: str


PANELS: Mapping[str, Mapping[str, Command]] = {
    "A run": {
        "run": Command("run", "Run the whole search on this machine, to a ranked summary."),
        "discover": Command("run", "Run a search that also verifies its best candidates with fresh seeds and data."),
        "watch": Command("watch", "Follow a run live; ends with the run, or with Ctrl-C."),
        "track": Command("track", "Send candidates to an experiment tracker as they end, and discoveries to a URL."),
        "status": Command("status", "Show the state of a run."),
        "pause": Command("status", "Start no further candidates; those in flight continue."),
        "resume": Command("status", "Start candidates again, if services are running."),
        "stop": Command("status", "End a run; candidates in flight still complete."),
        "runs": Command("status", "List all runs, newest first."),
    },
    "Its results": {
        "list": Command("list", "List the candidates of a run, best first."),
        "show": Command("show", "Show one candidate: numbers, motivation, verdict, analysis."),
        "tree": Command("list", "Print the phylogenetic tree of a run."),
        "lineage": Command("list", "List a candidate and its ancestors, from the root on."),
        "compare": Command("show", "Compare two candidates measure by measure."),
        "diff": Command("show", "Show the difference between two programs."),
        "report": Command("report", "Write a run's report: a page, figures, and their data as CSV."),
        "gallery": Command("report", "Show model cards of confirmed discoveries, and every claim that was tested."),
        "web": Command("report", "Serve the live page: tree, leaderboard, candidates, progress."),
        "cost": Command("cost", "Show the time, compute, tokens and money that a run has used."),
    },
    "Verification": {
        "audit": Command("audit", "Verify a result or an exported log by its events and by training again."),
        "replay": Command("tools", "Rebuild a run from its log alone and compare it with the archive."),
        "ablate": Command("ablate", "Train a program without each of its components, or show the effect of each move."),
        "sizes": Command("sizes", "Train a candidate and its controls at several sizes, and compare the gains."),
        "rescore": Command("judge", "Recompute a run's fitness in another version, as new events."),
        "judge": Command("judge", "Judge a candidate or the baselines again, and report the drift."),
        "scaling": Command("cost", "Count candidates better than the strongest control against compute, with a fit."),
        "stopping": Command("cost", "Show what early stopping would have saved and lost in a run."),
    },
    "Without a run": {
        "check": Command("tools", "Screen and probe the program in a file."),
        "train": Command("tools", "Train and evaluate the program in a file."),
        "propose": Command("tools", "Show one proposal from a parent; nothing is stored or trained."),
        "prompt": Command("tools", "Show the exact prompt about a candidate; nothing is sent."),
        "table": Command("table", "Build and query the table of mixers, simulate searches, compare policies."),
        "cognition": Command("tools", "Search and extend the cognition base, and show its statistics."),
    },
    "Archives": {
        "export": Command("report", "Export a run as its log, tables or the published format, or one architecture."),
        "import": Command("tools", "Import a published archive or an exported log as a new run."),
        "backup": Command("tools", "Copy the archive to a file."),
        "restore": Command("tools", "Restore the archive from a copy."),
    },
    "Operation": {
        "setup": Command("tools", "Create or verify streams, consumers, tables and indexes."),
        "autoscale": Command("autoscale", "Run as many engineers on this machine as candidates wait."),
        "worker": Command("autoscale", "Train for a system that runs elsewhere, with the engineers of this machine."),
        "recover": Command("tools", "Rebuild a damaged event log from the archive."),
        "dead": Command("dead", "List, show, retry or drop messages that could not be handled."),
    },
}
COMMANDS = {name: command for panel in PANELS.values() for name, command in panel.items()}


class Commands(typer.core.TyperGroup):
    """Imports a command's module when it is called; the overview needs `PANELS` alone."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the signature of click
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"services.console.commands.{COMMANDS[cmd_name].module}")
        function = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")
        boxes: Any = "rich" if shutil.get_terminal_size().columns >= NARROW else None
        if isinstance(function, typer.Typer):
            function.rich_markup_mode = function.rich_markup_mode and boxes
            command: Any = typer.main.get_command(function)
            for part in command.commands.values():  # else click cuts the summary to one line
                part.short_help = inspect.cleandoc(part.help or "").partition("\n\n")[0].replace("\n", " ")
                _name_parameters(part, ctx)
        else:
            app = typer.Typer(add_completion=False, rich_markup_mode=boxes, context_settings=HELP_NAMES)
            passes_on = getattr(function, "passes_arguments_on", False)
            app.command(context_settings=PASS_ON if passes_on else HELP_NAMES, add_help_option=not passes_on)(function)
            command = typer.main.get_command(app)
        _name_parameters(command, ctx)
        command.name = cmd_name
        # typer keeps the line breaks of all paragraphs but the first
        command.help = command.help and re.sub(r"(?<!\n)\n *(?!\n)", " ", inspect.cleandoc(command.help))
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The called command. Raises SettingsError with similar names for an unknown one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from services.local.settings import did_you_mean

            suggestion = did_you_mean(args[0], COMMANDS) or "; see `asi-arch --help`."
            raise SettingsError(f"no command is called {args[0]}{suggestion}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        for title, panel in PANELS.items():
            with formatter.section(title):
                formatter.write_dl([(name, command.summary) for name, command in panel.items()])


def _name_parameters(command: Any, ctx: Any) -> None:
    """Show no type of flags, where typer shows <bool>, and arguments in capitals, as in the documents."""
    for parameter in (*command.params, command.get_help_option(ctx)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter is not None and parameter.param_type_name == "argument":
            parameter.metavar = parameter.metavar or parameter.name.upper()


NARROW = 70
"""Columns below which help is plain text: the columns of boxes cut the names of flags."""
HELP_NAMES = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="asi-arch", cls=Commands, epilog=EXIT_STATUS, rich_markup_mode=None, no_args_is_help=True,
    pretty_exceptions_enable=False, context_settings=HELP_NAMES,
)  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asi-arch {__version__}, Python {platform.python_version()}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
]


@app.callback()
def asi_arch(version: Version = False) -> None:
    """Autonomous discovery of linear-attention architectures."""


def main() -> None:
    """The entry point: an expected error ends in one sentence."""
    for name in ("stdin", "stdout", "stderr"):  # one that is closed: no other file may be opened under its number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115
            os.set_inheritable(getattr(sys, name).fileno(), True)
    gc.set_threshold(100_000)  # collecting after every 700 new objects takes a tenth of a short command
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale need not have all letters of names and tables
    atexit.register(gc.freeze)  # else a last collection of all modules takes a fifth of a short command
    try:
        _require_text(sys.argv)
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # as in `| head`: nothing may be flushed into the pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SettingsError as error:
        _fail(sentence(error), 2)
    except (Denied, NotFound, NotPossible, BusLost, Transient, OSError) as error:
        _fail(sentence(error), 1)
    except Exception as error:
        import grpc.aio  # imported here, since it takes a tenth of a second

        if not isinstance(error, grpc.aio.AioRpcError):
            raise
        _fail(refusal(error), 2 if error.code() is grpc.StatusCode.INVALID_ARGUMENT else 1)


def _require_text(arguments: Sequence[str]) -> None:
    """Raises SettingsError for an empty argument, as of an unset variable of a script, and for one that is not UTF-8.

    An empty path would be the current folder, and an empty name the newest run.
    """
    for previous, argument in pairwise(arguments):
        name, equals, value = argument.partition("=")
        if not argument or (name.startswith("--") and equals and not value):
            where = name or f"the argument after {previous}"
            raise SettingsError(f"{where} is empty: give a value, or leave it out.")
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument.encode(errors="replace").decode()
            raise SettingsError(f"the argument {shown!r} is not UTF-8: correct it, or rename its file.") from None


def refusal(error: "grpc.aio.AioRpcError") -> str:
    """The sentence of a failed call; where no service answers, with the setting of its address."""
    reason, code = error.details() or error.code().name, error.code().name
    if code != "DEADLINE_EXCEEDED" and "failed to connect" not in reason:
        return reason
    address = os.environ.get("ASI_ARCHIVE_ADDRESS")
    if address is None:  # the services of a data folder
        logs = os.path.join(os.environ.get("ASI_DATA_DIR", ".data"), "logs")  # noqa: PTH118 - pathlib is not imported
        return f"a service does not answer ({reason}): see its log in {logs}"
    return f"a service does not answer ({reason}). Is it up, and is ASI_ARCHIVE_ADDRESS right ({address})?"


def _fail(reason: str, status: int) -> None:
    sys.stderr.write(f"asi-arch: {printable(reason)}\n")
    sys.exit(status)
