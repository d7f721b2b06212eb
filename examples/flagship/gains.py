"""The table of a flagship's second trainings, from its log alone: `python examples/flagship/gains.py [LOG]`.

Intervals are over seeds. Below the table those against the strongest control also cover the noise of the held-out text,
by its blocks.
"""

import gzip
import json
import sys
from collections import defaultdict
from math import hypot
from pathlib import Path
from statistics import fmean, stdev

from services.domain.statistics import student_quantile

LOG = Path(__file__).with_name("log.jsonl.gz")
Losses = dict[str, dict[str, float]]  # by candidate and seed
Blocks = dict[str, dict[str, list[float]]]  # the same, of each block of held-out text


def measured(log: Path) -> tuple[Losses, Losses, Blocks, list[str]]:
    """Losses of the run's own verification on its text and on text of another source, and its finalists."""
    code, prose = defaultdict[str, dict[str, float]](dict), defaultdict[str, dict[str, float]](dict)
    blocks = defaultdict[str, dict[str, list[float]]](dict)
    finalists = set[str]()
    with gzip.open(log, "rt", encoding="utf-8") as lines:
        events = [json.loads(line)["event"] for line in lines]
    for event in events:
        if "discovery_confirmed" in event or "discovery_refuted" in event:
            finalists.add(event["candidate"])
        for seed in event.get("candidate_verified", {}).get("training", {}).get("seeds", []):
            code[event["candidate"]][seed["seed"]] = seed["loss"]
            prose[event["candidate"]][seed["seed"]] = seed["other_text_loss"]
            blocks[event["candidate"]][seed["seed"]] = seed["block_losses"]
    return code, prose, blocks, sorted(finalists & code.keys())


def gain(losses: Losses, finalist: str, control: str, blocks: Blocks | None = None) -> str:
    """Mean of the differences by seed, with its 95 % interval; with `blocks` it covers other held-out text, too."""
    gains = [losses[control][seed] - loss for seed, loss in losses[finalist].items()]
    mean, reach = fmean(gains), half_interval(gains)
    if blocks is not None:
        by_seed = [
            [b - a for a, b in zip(own, blocks[control][seed], strict=True)] for seed, own in blocks[finalist].items()
        ]
        reach = hypot(reach, half_interval([fmean(block) for block in zip(*by_seed, strict=True)]))
    return f"{mean:+.4f} [{mean - reach:+.4f}, {mean + reach:+.4f}]"


def half_interval(values: list[float]) -> float:
    """Half of the 95 % interval of a mean."""
    return student_quantile(0.975, len(values) - 1) * stdev(values) / float(len(values) ** 0.5)


def main() -> None:
    """Print a row for each candidate."""
    code, prose, blocks, finalists = measured(Path(sys.argv[1]) if len(sys.argv) > 1 else LOG)
    controls = code.keys() - set(finalists)
    for name in sorted(code):
        values = [gain(losses, own, name) for own in finalists if name in controls for losses in (code, prose)]
        print(" | ".join((name, f"{fmean(code[name].values()):.4f}", f"{fmean(prose[name].values()):.4f}", *values)))
    strongest = min(controls, key=lambda name: fmean(code[name].values()))
    for own in finalists:
        print(f"{own} against {strongest}, also over text: {gain(code, own, strongest, blocks)}")


if __name__ == "__main__":
    main()
