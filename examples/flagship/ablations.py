"""Table and figure of the winner's ablations, from `ablations.jsonl`: `python examples/flagship/ablations.py`."""

import ast
from pathlib import Path

from matplotlib.figure import Figure

from services.console.commands.ablate import Variant, variants_of
from services.console.commands.sizes import read_sizes

FOLDER = Path(__file__).parent
WINNER = "c000017"


def variants() -> list[Variant]:
    """Every program of the folder against the winner, the largest rise of the loss first."""
    files = FOLDER.joinpath("ablations").glob("*.py")
    descriptions = {file.stem: ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "" for file in files}
    return variants_of(read_sizes(FOLDER / "ablations.jsonl"), WINNER, descriptions)


def main() -> None:
    """Print a row for each program, and draw them all."""
    found = variants()
    for one in found:
        low, high = one.interval.low, one.interval.high
        print(
            f"| {one.description} | {one.parameters:,} | {one.loss:.4f} | "
            f"{one.rise:+.4f} [{low:+.4f}, {high:+.4f}] | {one.p:.2g} |"
        )
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    rises = [one.rise for one in found]
    axes.errorbar(
        rises, range(len(found)), xerr=[one.interval.high - one.rise for one in found], fmt="o", capsize=3, color="C0"
    )
    axes.set_yticks(range(len(found)), [one.name.replace("_", " ") for one in found])
    axes.invert_yaxis()
    axes.axvline(0, color="grey", linewidth=1)
    axes.set_xlabel(f"loss above DenseLagDeltaNet's, nats per byte (95 % interval, {found[0].seeds} paired seeds)")
    figure.savefig(FOLDER / "ablations.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
