"""`asi-arch table`: build and query the table of mixers, simulate searches on it, compare policies."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.chassis.errors import NotPossible, SettingsError
from services.console.options import PASS_ON, Json, print_json
from services.console.tables import Column, pairs, paragraph, say, styled
from services.console.tables import table as text_table
from services.local.processes import ends_with_parent
from services.local.settings import require_choice, split_names, whole_numbers
from services.report.rows import ABSENT, interval_text, number

if TYPE_CHECKING:
    from services.table import Table
    from services.table.analysis import Agreement, PolicyResult, Stopping

BUILD = "services.engineer.table"
SCALES = ("mini-half", "mini", "tiny")
Folder = Annotated[
    Path | None,
    typer.Option("--folder", metavar="PATH", help="folder of a table that is being built; default: the shipped table"),
]
ScaleName = Annotated[str, typer.Option("--scale", help=f"one of {', '.join(SCALES)}")]
Estimates = Annotated[
    bool, typer.Option("--estimates", help="estimate missing measurements by regression: results are provisional")
]
Finalists = Annotated[
    int, typer.Option(min=1, help="of so many architectures with the lowest losses the truly best one counts")
]

table = typer.Typer(name="table", no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@table.callback()
def about() -> None:
    """The table of mixers: measured trainings of a lattice of architectures, to query and to simulate searches on."""


@table.command(context_settings=PASS_ON, add_help_option=False)
def build(context: typer.Context) -> None:
    """Train missing cells into --folder PATH. Resumes, and may run in several processes at once."""
    command = ends_with_parent([sys.executable, "-m", BUILD, *context.args])
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@table.command()
def pack(folder: Annotated[Path, typer.Argument()], file: Annotated[Path, typer.Argument()]) -> None:
    """Write all records of a FOLDER as one compressed FILE, as it is shipped."""
    from services.table.records import pack as write
    from services.table.records import read_all

    records = read_all(folder)
    if not records:
        raise NotPossible(f"{folder} holds no record of a table")
    say(f"{len(records)} trainings in {write(records, file):,} bytes")


@table.command()
def info(folder: Folder = None, scale: ScaleName = "mini-half", as_json: Json = False) -> None:
    """Show coverage, reliability, the value of early losses and early stopping, and the effects of parts."""
    from services.table import analysis
    from services.table.lattice import cells

    measured = _load(folder, scale)
    records = measured.records()
    failed = [record for record in records if record.failure]
    noise, reliable = measured.seed_noise, analysis.reliability(measured)
    tables = {name: _load(folder, name, empty=True) for name in SCALES}
    others = {f"order at {name}": other.truth for name, other in tables.items() if name != scale}
    for name, other in tables.items():
        others |= {f"{task} at {name}": errors for task, errors in other.errors.items()}
    correlations = {name: analysis.correlation(measured.truth, values) for name, values in others.items()}
    relations = {name: relation for name, relation in correlations.items() if relation}
    effects, agreements = analysis.effects(measured), analysis.agreements(measured)
    stoppings, best = analysis.stoppings(measured), min(measured.truth, key=measured.truth.__getitem__)
    if as_json:
        print_json({
            "scale": scale, "architectures": len(measured.space), "of": len(cells()), "trainings": len(records),
            "failed": len(failed), "conditions": sorted({record.conditions for record in records}),
            "best": best, "lowest_loss": measured.best,
            "seed_deviation": noise.deviation if noise else None,
            "reliability": None if reliable is None else {"architectures": reliable[0], "share": reliable[1]},
            "correlations": relations,
            "fidelities": [asdict(agreement) for agreement in agreements],
            "stopping": [asdict(stopping) for stopping in stoppings],
            "effects": [asdict(effect) for effect in effects],
        })  # fmt: skip
        return
    rows = [
        ("architectures", f"{len(measured.space)} of {len(cells())} measured at {scale}"),
        ("trainings", f"{len(records)}, {len(failed)} failed"),
        ("best", f"{best}, {measured.best:.4f} nats per byte"),
        ("seed deviation", number(noise.deviation if noise else None)),
        ("reliability", ABSENT if reliable is None else f"{reliable[1]:.3f} of the variance of one seed's losses"),
    ]
    for name, (count, rho, low, high) in relations.items():
        rows.append((name, f"rank correlation {rho:.2f} [{low:.2f}, {high:.2f}], {count} architectures"))
    say(pairs(rows))
    _early_and_stopping(agreements, stoppings)
    if effects:
        say(f"\n{styled('Effects', bold=True)}: gain over DeltaNet's value in nats per byte, all else equal")
        say(text_table([
            Column("part", [effect.dimension for effect in effects]),
            Column("value", [effect.value or "none" for effect in effects]),
            Column("move", [effect.move or ABSENT for effect in effects], rank=1),
            Column("gain", [f"{effect.gain:+.4f}" for effect in effects], right=True),
            Column("[95 %]", [interval_text(effect.low, effect.high) for effect in effects]),
            Column("pairs", [str(effect.pairs) for effect in effects], right=True),
        ]))  # fmt: skip


@table.command()
def query(
    architecture: Annotated[str, typer.Argument(help="a cell such as delta.mamba.sigmoid.silu.l2.qkv.swish.none.rms, a "
                                                     "baseline's name, or a structure")],
    fidelity: Annotated[float, typer.Option(min=0, max=1, help="share of the steps: 0.25, 0.5, 0.75 or 1")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="seed; default: the first measured")] = None,
    folder: Folder = None,
    scale: ScaleName = "mini-half",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Show the measurements of one architecture."""
    from services.table import NotMeasured

    try:
        record = _load(folder, scale).query(architecture, fidelity, seed)
    except NotMeasured as error:
        raise NotPossible(str(error)) from None
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if as_json:
        print_json(asdict(record))
        return
    say(pairs([
        ("architecture", record.cell), ("scale", f"{record.scale}, seed {record.seed}"),
        ("loss", record.failure or f"{number(record.loss)} nats per byte at {fidelity:.0%} of the steps"),
        ("parameters", number(record.parameters, ",")), ("FLOPs per token", number(record.flops_per_token, ",.0f")),
        ("tokens per CPU second", number(record.tokens_per_cpu_second, ",.0f")),
        ("CPU seconds", number(record.cpu_seconds, ".1f")),
        *((task, f"accuracy {number(accuracy)}") for task, accuracy in record.scores.items()),
    ]))  # fmt: skip


@table.command()
def simulate(
    policy: Annotated[str, typer.Argument(help="a policy's name; see `compare`")],
    budget: Annotated[int, typer.Option(min=1, help="whole trainings")] = 100,
    seed: Annotated[int, typer.Option()] = 1,
    seats: Annotated[int, typer.Option(min=1, help="trainings in flight at once")] = 1,
    finalists: Finalists = 5,
    estimates: Estimates = False,
    folder: Folder = None,
    scale: ScaleName = "mini-half",
    as_json: Json = False,
) -> None:
    """Simulate one search."""
    from services.table.policies import POLICIES

    require_choice("policy", policy, list(POLICIES))
    measured, note = _space(folder, scale, estimates)
    trace = measured.simulate(POLICIES[policy], budget, seed, seats, finalists)
    if as_json:
        print_json({"policy": policy, "budget": budget, "seed": seed, "seats": seats, "space": note,
                    "best": trace.best, "regrets": trace.regrets})  # fmt: skip
        return
    say(pairs([
        ("policy", f"{policy}, seed {seed}, {budget} trainings on {seats} seats"), ("space", note),
        ("best", trace.best or ABSENT), ("regret", f"{number(trace.regret)} nats"),
        ("anytime", ", ".join(f"{at}: {number(trace.regrets[at - 1])}" for at in (5, 10, 20, 50, 100, 200, 500)
                              if at <= budget)),
    ]))  # fmt: skip


@table.command()
def compare(
    policies: Annotated[str, typer.Option(help="comma-separated names; default: all")] = "",
    budgets: Annotated[str, typer.Option(help="comma-separated numbers of whole trainings")] = "20,50,100,200,500",
    runs: Annotated[int, typer.Option(min=2, help="simulated searches of each policy")] = 200,
    seats: Annotated[str, typer.Option(help="comma-separated numbers of trainings in flight")] = "1",
    finalists: Finalists = 5,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="draw regret against the budget, as PNG")] = None,
    estimates: Estimates = False,
    folder: Folder = None,
    scale: ScaleName = "mini-half",
    as_json: Json = False,
) -> None:
    """Compare policies: regret at each budget, with paired tests against random and local search."""
    from services.table.analysis import compare as compared
    from services.table.policies import POLICIES

    names = split_names(policies) or list(POLICIES)
    for name in names:
        require_choice("--policies", name, list(POLICIES))
    measured, note = _space(folder, scale, estimates)
    started = time.monotonic()
    try:
        results = compared(
            measured, {name: POLICIES[name] for name in names}, whole_numbers("--budgets", budgets), runs,
            whole_numbers("--seats", seats), finalists,
        )  # fmt: skip
    except ValueError as error:
        raise NotPossible(str(error)) from None
    if plot:
        _plot(results, plot)
    if as_json:
        rows = [asdict(result) for result in results]
        print_json({"space": note, "runs": runs, "finalists": finalists, "results": rows})
        return
    seconds = time.monotonic() - started
    heading = f"{runs} runs of each policy on {note}, in {seconds:.0f} s."
    say(paragraph(f"{heading} Regret in nats per byte, of the best of {finalists} finalists."))
    say(text_table([
        Column("policy", [result.policy for result in results]),
        Column("seats", [str(result.seats) for result in results], right=True),
        Column("budget", [str(result.budget) for result in results], right=True),
        Column("regret", [f"{result.regret:.4f}" for result in results], right=True),
        Column("[95 %]", [interval_text(result.low, result.high, ".4f") for result in results]),
        Column("p random", [number(result.p.get("random"), ".3f") for result in results], right=True),
        Column("p local", [number(result.p.get("local"), ".3f") for result in results], right=True),
    ]))  # fmt: skip
    note = "p: Holm-adjusted, one-sided, against the hypothesis that the policy is no better than the opponent."
    say(styled(paragraph(note), dim=True))


def _plot(results: "Sequence[PolicyResult]", file: Path) -> None:
    """Mean regret with its interval against the budget, a panel for each number of seats."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    seats = list(dict.fromkeys(result.seats for result in results))
    figure = Figure(figsize=(4.2 * len(seats) + 2.2, 3.6), layout="constrained")
    panels = figure.subplots(1, len(seats), sharey=True, squeeze=False)[0]
    for axes, count in zip(panels, seats, strict=True):
        for number_, name in enumerate(dict.fromkeys(result.policy for result in results)):
            own = [result for result in results if (result.policy, result.seats) == (name, count)]
            budgets = [result.budget for result in own]
            style = ("-", "--", ":")[number_ // 6 % 3]
            axes.plot(budgets, [result.regret for result in own], style, lw=1.8, color=f"C{number_ % 10}", label=name)
            axes.fill_between(
                budgets, [result.low for result in own], [result.high for result in own], alpha=0.15, lw=0,
                color=f"C{number_ % 10}",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"trainings, {count} at once")
        axes.grid(color="#e4e7eb", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("regret (nats per byte)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    try:
        figure.savefig(file, dpi=130)
    except ValueError as error:  # another ending than that of a picture
        raise SettingsError(f"--plot {file}: {error}.") from None


def _early_and_stopping(agreements: "Sequence[Agreement]", stoppings: "Sequence[Stopping]") -> None:
    if agreements:
        say("\n" + text_table([
            Column("at", [f"{row.fidelity:.0%}" for row in agreements], right=True),
            Column("correlation with the end", [f"{row.spearman:.3f}" for row in agreements], right=True),
            Column("[95 %]", [interval_text(row.low, row.high, ".3f") for row in agreements]),
            Column("10 best in the better half", [str(row.best_kept) for row in agreements], right=True),
        ]))  # fmt: skip
    if stoppings:
        say("\n" + text_table([
            Column("stopping by", [stopping.rule for stopping in stoppings]),
            Column("at", [_share(stopping.fidelity, "25%, 50%") for stopping in stoppings], right=True),
            Column("trainings", [str(stopping.trainings) for stopping in stoppings], right=True),
            Column("compute saved", [f"{stopping.saved:.0%}" for stopping in stoppings], right=True),
            Column("10 best lost", [f"{stopping.lost:.2f}" for stopping in stoppings], right=True),
            Column("best lost", [_share(stopping.best_lost) for stopping in stoppings], right=True),
        ]))  # fmt: skip


def _share(value: float | None, absent: str = ABSENT) -> str:
    return absent if value is None else f"{value:.0%}"


def _load(folder: Path | None, scale: str, empty: bool = False) -> "Table":
    """The table; imported here, since `asi-arch --help` does not need it."""
    from services.table import Table

    require_choice("--scale", scale, SCALES)
    loaded = Table.load(folder, scale)
    if not loaded.truth and not empty:
        where = f"{folder} holds" if folder else "this version ships"
        raise NotPossible(f"{where} no training at {scale}; `asi-arch table build --folder PATH` makes some")
    return loaded


def _space(folder: Path | None, scale: str, estimates: bool) -> "tuple[Table, str]":
    """The table to simulate on, and its description."""
    from services.table.analysis import filled

    measured = _load(folder, scale)
    if not estimates:
        return measured, f"{len(measured.space)} measured architectures at {scale}"
    full, explained = filled(measured)
    return full, (
        f"{len(full.space)} architectures at {scale}, of which {len(measured.space)} are measured and the others "
        f"estimated (explained variance {explained:.2f} in cross-validation): provisional"
    )
