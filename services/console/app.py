"""The command line's frame: the application that commands register with, and the options they share."""

from typing import Annotated, TypeVar

import typer

app = typer.Typer(
    name="asi-arch",
    help="An autonomous laboratory that discovers linear-attention architectures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[str, typer.Option("--run", metavar="NAME", help="the run; default: the newest")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
INTERRUPTED = 130
T = TypeVar("T")


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
