"""Writes an archive in the published format: 1,772 records, 106 of them with details, with invented numbers.

    python -m bench.published_archive FOLDER

It is used to measure and test the page and the importer with a large archive. Its structure follows the published one:
parents come from the ten best so far, names repeat, indices have gaps, and the best records have programs, curves
(some of which end in nan), benchmark scores and summaries.
"""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from services.domain.zoo import baseline

NODES = 1772
DETAILED = 106
TASKS = (
    "arc_challenge", "arc_easy", "boolq", "fda", "hellaswag", "lambada_openai", "openbookqa", "piqa", "social_iqa",
    "squad_completion", "swde", "winogrande",
)  # fmt: skip
WORDS = (
    ("Content", "Hier", "Fusion", "Adaptive", "Path", "Gated", "Sparse", "Multi", "Dual", "Local"),
    ("Sharp", "Gate", "Mix", "Scale", "FIR", "Decay", "Route", "Memory", "Phase", "Cross"),
    ("Router", "Net", "Former", "Mixer", "DeltaNet", "Block", "Head", "Field"),
)
MOTIVATION = """## Why {name} should help

The parent forgets at one rate for all channels. **Hypothesis:** a gate that reads `{gate}` lets the state keep
rare keys for longer.

1. Replace the fixed mixing weight by a router over *three* paths.
2. Keep a floor of {floor:.2f} below every gate, so that no path dies.

| path | cost | receptive field |
|---|---|---|
| short FIR | O(n) | 4 tokens |
| delta rule | O(n) | all |
"""


@dataclass(frozen=True)
class _Node:
    index: int
    parent: int | None
    name: str
    score: float


def write(folder: Path, nodes: int = NODES, detailed: int = DETAILED, seed: int = 1) -> None:
    """`tree.json` and `106.json` below `folder`; the same arguments write the same bytes."""
    rng = random.Random(seed)
    tree = _tree(rng, nodes)
    best = {node.index for node in sorted(tree, key=lambda node: -node.score)[: detailed - 1]} | {tree[0].index}
    folder.mkdir(parents=True, exist_ok=True)
    slim = [
        {"index": node.index, "name": node.name, "parent": node.parent, "score": node.score,
         **({"name_new": _new_name(node.index)} if node.index in best else {})}
        for node in tree
    ]  # fmt: skip
    (folder / "tree.json").write_text(json.dumps({"total_records": nodes, "results": slim}))
    source = baseline("delta_net").program
    details = [_details(node, source, rng) for node in tree if node.index in best]
    (folder / "106.json").write_text(json.dumps(details))


def _tree(rng: random.Random, count: int) -> list[_Node]:
    """A tree of children of the ten best of the last pool; scores increase with large scatter."""
    nodes = [_Node(1, None, "delta_net", 1.45)]
    pool = list(nodes)
    index = 1
    for number in range(1, count):
        index += 1 + (rng.random() < 0.02)
        parent = rng.choice(pool)
        score = 1.3 + 0.72 * (parent.score - 1.3) + rng.gauss(0.06, 0.16) + 0.1 * number / count
        name = f"delta_net_{'_'.join(rng.choice(part).lower()[:4] for part in WORDS)}"
        nodes.append(_Node(index, parent.index, name, round(min(2.9, max(0.15, score)), 4)))
        if number < 200 or number % 50 == 0:
            pool = sorted(nodes[:number], key=lambda node: -node.score)[: 10 if number >= 200 else 40]
    return nodes


def _new_name(index: int) -> str:
    rng = random.Random(index)
    return "".join(rng.choice(part) for part in WORDS)


def _details(node: _Node, source: str, rng: random.Random) -> dict[str, object]:
    name = _new_name(node.index)
    quality = (node.score - 1.0) / 2
    cut = rng.random() < 0.05  # the training loss of a few is nan from some step on
    steps = range(100, 2001, 50)
    losses = [4.55 - 0.12 * quality + 5.4 / (1 + step / 90) ** 1.3 + rng.gauss(0, 0.015) for step in steps]
    train = [f"{loss:.4f}" if not (cut and step > 1200) else "nan" for step, loss in zip(steps, losses, strict=True)]
    scores = [f"{0.12 + 0.33 * rng.betavariate(5, 4) + 0.03 * quality:.4f}" for _ in TASKS]
    gate = rng.choice(("beta", "the key norm", "the chunk mean"))
    return {
        "name": node.name, "name_new": name, "index": node.index, "parent": node.parent, "score": node.score,
        "program": _varied(source, rng),
        "motivation": MOTIVATION.format(name=name, gate=gate, floor=rng.uniform(0.01, 0.1)),
        "summary": f"**{name}** lowers the training loss early.\n\n- Recall tasks gain most.\n- Cost grows by "
                   f"{rng.randint(2, 19)} %.\n\nNext: try `{gate}` with a *learned* temperature.",
        "parameters": f"{rng.gauss(455, 60):.2f}M",
        "result": {
            "train": f",{','.join(map(str, steps))}\n{name},{','.join(train)}\n",
            "test": f",{','.join(TASKS)}\n{name},{','.join(scores)}\n",
        },
    }  # fmt: skip


def _varied(source: str, rng: random.Random) -> str:
    """The source with a few added lines and one changed number, so that programs differ."""
    lines = source.splitlines()
    chosen = sorted(rng.sample(range(len(lines) // 3, len(lines)), 3), reverse=True)
    for line in chosen:
        indent = len(lines[line]) - len(lines[line].lstrip())
        lines.insert(line, f"{' ' * indent}# temperature {rng.uniform(0.1, 2):.3f} keeps path {rng.randint(1, 4)} open")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
