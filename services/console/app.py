"""The command line's frame: the application that commands register with, and the options they share."""

from typing import Annotated, TypeVar

import typer

from services.console import completion

ENDINGS = (
    "Exit status: 0 done; 1 the answer is no (nothing is called that, a check failed, a run without a result, nothing "
    "answers); 2 a flag, file or setting is impossible; 130 interrupted, and drained. What went wrong is one sentence "
    "on standard error. Colours: on a terminal only, never with NO_COLOR set. State lies below ASI_DATA_DIR."
)

app = typer.Typer(
    name="asi-arch",
    help="An autonomous laboratory that discovers linear-attention architectures.",
    epilog=ENDINGS,
    rich_markup_mode="markdown",  # whole paragraphs, at any width
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[
    str, typer.Option("--run", metavar="NAME", help="the run; default: the newest", autocompletion=completion.runs)
]
Named = Annotated[
    str,
    typer.Argument(metavar="[RUN]", show_default=False, help="the same as --run", autocompletion=completion.runs),
]
Candidate = Annotated[
    str, typer.Argument(help="an id, or a name that just one candidate has", autocompletion=completion.candidates)
]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
INTERRUPTED = 130
T = TypeVar("T")


def whole_run(named: str, run: str) -> str:
    """The run that a command about a whole run was given, by place or by --run. Raises BadParameter for two."""
    if named and run and named != run:
        raise typer.BadParameter(f"two runs are named, {named} and {run}: give one")
    return named or run


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
