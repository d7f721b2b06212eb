"""Measurements that need a GPU, the most important first: `make gpu`.

    python -m bench.gpu [--out gpu.json] [--parts sandbox kernels …] [--again] [--minutes 40] [--device cuda]

Parts are independent; each result is added to the JSON file at once, and parts that are in the file are repeated only
with --again. Without a GPU each part runs as far as a CPU allows, and the table shows what was skipped. Neither a
network nor a data set is needed. Most of the time goes to fla, which compiles and times 30 to 500 variants of its
kernels for each program; the folder gpu.kernels beside the file keeps them for the next call.

    paper       expected duration of a training on an H100, by counted operations: needs no GPU
    sandbox     every program of the zoo trained in the sandbox, compiled and not; refusal of hostile programs
    kernels     fla's Triton kernels against our PyTorch versions: the zoo, packed sequences and caches
    throughput  tokens/s, memory and use of the peak, in the sandbox and in a bare loop around fla's own layers
    budget      the resulting duration of one explore training, and several candidates at once
    loop        a run with baselines, candidates and all five services
    drain       a training that is stopped and resumed, against an uninterrupted one
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import torch

from bench.gpu import Bench, Result
from bench.gpu.paper import paper_part
from bench.gpu.runs import drain_part, kernels_part, loop_part, sandbox_part
from bench.gpu.speed import budget_part, throughput_part
from services.engineer.training.measurements import device_name, versions

PARTS: Mapping[str, Callable[[Bench], Awaitable[Result]]] = {
    "paper": paper_part,
    "sandbox": sandbox_part,
    "kernels": kernels_part,
    "throughput": throughput_part,
    "budget": budget_part,
    "loop": loop_part,
    "drain": drain_part,
}


def table(results: Mapping[str, Result]) -> str:
    """One line for each part: its outcome, duration and skipped measurements."""
    lines = [f"{'part':<12}{'result':<10}{'seconds':>8}  left out"]
    for name in PARTS:
        result = results.get(name)
        if result is None:
            lines.append(f"{name:<12}{'not run':<10}")
            continue
        verdict = {True: "ok", False: "FAILED", None: "left out"}[result.get("ok")]
        left_out = "; ".join(result.get("left_out", [])) or result.get("error", "")[-120:].replace("\n", " ")
        lines.append(f"{name:<12}{verdict:<10}{result.get('took', 0):>8.1f}  {left_out}")
    return "\n".join(lines)


async def main(arguments: Sequence[str] | None = None) -> int:
    """Run the missing parts. Exit status 1 if one failed."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__, formatter_class=kind)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="results, added to part by part")
    parser.add_argument("--parts", nargs="*", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--again", action="store_true", help="measure parts again that are in the file")
    parser.add_argument("--minutes", type=float, default=40.0, help="start no further part after this time")
    parser.add_argument("--mps", type=Path, help="pipe folder of a running MPS daemon, for `budget`")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    out: Path = options.out
    content = await asyncio.to_thread(lambda: json.loads(out.read_text("utf-8")) if out.is_file() else {})
    results: dict[str, Result] = content.get(options.device, {})
    kernels = out.with_suffix(".kernels")
    started = time.monotonic()
    for name in options.parts:
        if name in results and not options.again:
            continue
        if time.monotonic() - started > 60 * options.minutes:
            print(f"{name}: the time limit is reached; the next call continues with it", flush=True)
            break
        print(f"{name} …", flush=True)
        part_started = time.monotonic()
        try:
            result = await PARTS[name](Bench(options.device, results, kernels, options.mps))
        except Exception as error:  # noqa: BLE001 - one part that breaks must not take the others along
            result = {"error": f"{type(error).__name__}: {error}", "ok": False}
        results[name] = {**result, "took": round(time.monotonic() - part_started, 1)}
        about = {"device": device_name(options.device), "versions": dict(versions())}
        text = json.dumps({**content, options.device: results, f"{options.device}_machine": about}, indent=2)
        await asyncio.to_thread(out.write_text, text, "utf-8")
    print(table(results))
    return 1 if any(result.get("ok") is False for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
