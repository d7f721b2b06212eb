"""`asi-arch discover`: from the baselines to a verdict on the best candidates, in one command."""

from typing import Annotated

import typer

from services.console.commands.run import Name, run_to_end
from services.console.launch import Start
from services.console.options import Json
from services.console.plan import RunOptions, checked_run_name

# Sized for half an hour on two quiet CPU cores: a third of it is the search, the rest goes into second trainings on
# more data. A candidate may have 10 % more parameters or fewer, and 10 % more operations, than the root.
PRESET = {
    "scale": "tiny",
    "candidates": 8,
    "baseline_seeds": 2,
    "baselines": ("delta_net", "gated_delta_net", "delta_net_value_skip", "gla"),
    "promotion": "halving",
    "set": {"tokens": "600000"},
    "policy": {"eta": "4", "stages": "tiny:tokens=1000000:seeds=5", "parameters": "0.1", "flops": "+0.1"},
}


def discover(
    name: Name = None,
    candidates: Annotated[int, typer.Option(min=1, help="proposals; every fourth is trained again")] = 8,
    mind: Annotated[str, typer.Option(help="offline, openai or recorded:RUN")] = "offline",
    seed: Annotated[int, typer.Option(help="of every random draw of the run")] = 1,
    as_json: Json = False,
) -> None:
    """Search, train the best again with fresh seeds, data and the strongest controls, and say what holds.

    About half an hour on two quiet CPU cores. The same as `asi-arch run` with these flags: --promotion halving
    --baseline-seeds 2 --set tokens=600000 --policy stages=tiny:tokens=1000000:seeds=5 --policy flops=+0.1.
    """
    options = RunOptions.read({**PRESET, "candidates": candidates, "mind": mind, "seed": seed})
    run_to_end(options, Start(checked_run_name(name) if name else None), as_json)
