"""Table and figure of a winner's ablations from `ablations.jsonl`: `python examples/flagship/ablations.py [FOLDER]`."""

import ast
import sys
from pathlib import Path

from matplotlib.figure import Figure

from services.report.comparisons import read_sizes, variants_of


def main() -> None:
    """Print a row for each program of the folder, the largest rise of the loss first, and draw them all."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    files = folder.joinpath("ablations").glob("*.py")
    descriptions = {file.stem: ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "" for file in files}
    trained = read_sizes(folder / "ablations.jsonl")
    (winner,) = {
        training.candidate: training for training in trained if training.candidate not in descriptions
    }.values()
    variants = variants_of(trained, winner.candidate, descriptions)
    for variant in variants:
        low, high = variant.interval.low, variant.interval.high
        print(
            f"| {variant.description} | {variant.parameters:,} | {variant.loss:.4f} | "
            f"{variant.rise:+.4f} [{low:+.4f}, {high:+.4f}] | {variant.p:.2g} |"
        )
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    reach = [variant.interval.high - variant.rise for variant in variants]
    axes.errorbar(
        [variant.rise for variant in variants], range(len(variants)), xerr=reach, fmt="o", capsize=3, color="C0"
    )
    axes.set_yticks(range(len(variants)), [variant.name.replace("_", " ") for variant in variants])
    axes.invert_yaxis()
    axes.axvline(0, color="grey", linewidth=1)
    seeds = variants[0].seeds
    axes.set_xlabel(f"loss above {winner.name}'s, nats per byte (95 % interval, {seeds} paired seeds)")
    figure.savefig(folder / "ablations.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
