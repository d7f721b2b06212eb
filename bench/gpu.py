"""Measurements that need a GPU, the most important first: `make gpu`.

    python -m bench.gpu [--out gpu.json] [--parts sandbox kernels …] [--again] [--minutes 40] [--device cuda]

Parts are independent; each result is added to the JSON file at once, and parts that are in the file are repeated only
with --again. Without a GPU each part runs as far as a CPU allows, and the table shows what was skipped. Neither a
network nor a data set is needed.

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
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.bare_loop import tokens_per_second
from services.domain import zoo
from services.engineer.data import Corpus, batches
from services.engineer.data.corpus import ByteTokens, fingerprint_of
from services.engineer.kernels import compare_programs, probes, unavailable
from services.engineer.program import MixerSizes, load_mixer, prepare_child
from services.engineer.scales import Scale, load_scale
from services.engineer.training.child import build_model, flops_per_token
from services.engineer.training.host import JOB, train
from services.engineer.training.measurements import device_name, versions
from services.engineer.training.model import BF16, autocast, parameter_count
from services.engineer.training.protocol import limits_of
from services.engineer.training.result import Drained, Metrics, TrainingFailed
from services.engineer.training.session import Job, Session, Supervision, Weights
from services.engineer.training.sizes import ModelSizes
from services.sandbox import ChildError, Limits, Sandbox

PEAK_FLOPS = {
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "4090": 165e12,
}
"""Peak of dense bfloat16 by a part of the device's name, from the vendor's data sheets."""
BANDWIDTH = {"H100": 3.35e12}
"""Memory bandwidth in bytes per second, from the same source."""
LAUNCH_SECONDS = 5e-6
"""Assumed processor time to launch a kernel, which `throughput` tests."""
CHUNK = 64
"""Tokens per chunk of fla's kernels."""
EXPLORE_TOKENS, GOAL_HOURS, PAPER_HOURS = 1_048_576_000, 0.5, 5.6
LOOP_SECONDS = 2400.0
MEASURED = ("delta_net", "gated_delta_net", "gla", "mamba2")
FLA_LAYERS = {
    "delta_net": "DeltaNet",
    "gated_delta_net": "GatedDeltaNet",
    "gla": "GatedLinearAttention",
    "mamba2": "Mamba2",
}
VOCABULARY = 50_257
Result = dict[str, Any]
HOSTILE = {
    "opens a connection": "import socket\nsocket.create_connection(('192.0.2.1', 80), 1)",
    "reads the password file of the host": "print(open('/etc/shadow').read())",
    "writes outside of its folder": "open('/usr/written', 'w').write('x')",
    "reads another process's environment": "print(open('/proc/1/environ', 'rb').read())",
}


@dataclass(frozen=True)
class Bench:
    """The context of all parts."""

    device: str
    results: Mapping[str, Result]
    mps: Path | None = None

    @property
    def gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    def scale(self, name: str = "explore", **overrides: object) -> Scale:
        """The scale on a GPU; on a CPU one that takes seconds. Without tasks and intermediate evaluations."""
        usual: dict[str, object] = {"evaluations": 0, "tasks": "", "corpus": "python-source", "precision": "fp32"}
        if self.gpu:
            usual |= {"device": "cuda", "precision": "bf16-autocast"}
        else:
            small = {
                "width": 32,
                "heads": 2,
                "feed_forward": 64,
                "context": 64,
                "blocks": 2,
                "batch": 4,
                "micro_batch": 4,
            }
            usual |= {"device": "cpu", **small, "compile": "false", "threads": 1}
            overrides = {key: value for key, value in overrides.items() if key not in (*small, "compile")}
        usual |= {"heldout_blocks": 8, "check_truncations": 4, "substitute": "false", **overrides}
        return load_scale(name, {key: str(value) for key, value in usual.items()})


def synthetic_corpus(vocabulary: int, tokens: int) -> Corpus:
    """Random tokens with the frequencies of words, for measurements of speed."""
    drawn = np.minimum(np.random.default_rng(1).zipf(1.2, tokens), vocabulary - 1).astype(np.uint16)
    train, heldout, verification = drawn[: tokens // 2], drawn[tokens // 2 : tokens * 3 // 4], drawn[tokens * 3 // 4 :]
    words = ByteTokens()
    words.vocabulary = vocabulary
    fingerprint = fingerprint_of(train, heldout, verification)
    return Corpus("synthetic", words, train, heldout, verification, 4.0, fingerprint, b"bench")


async def paper_part(bench: Bench) -> Result:
    """The expected cost of an explore and a verify training on an H100: arithmetic, memory traffic, launches, memory.

    Counted on the CPU over short rows of the root's model, with the loss in chunks. One kernel of fla replaces many
    operations of our PyTorch versions, so traffic, launches and saved activations are upper bounds.
    """
    result: Result = {
        "left_out": [] if bench.gpu else ["operations of Triton kernels, which are not counted"],
        "ok": True,
    }
    for stage in ("explore", "verify"):
        scale = load_scale(stage)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            counted = await asyncio.get_running_loop().run_in_executor(pool, _counted, stage)
        micro_tokens, passes = scale.micro_batch * scale.context, scale.batch // scale.micro_batch * scale.steps
        logits = 4 * VOCABULARY * micro_tokens
        chunk = 4 * VOCABULARY * scale.loss_chunk
        memory = 16 * counted.parameters + counted.saved_per_token * micro_tokens + chunk
        result[stage] = {
            "parameters": counted.parameters,
            "flops_per_token": counted.flops_per_token,
            "gpu_hours_at_share_of_peak": {
                f"{share:.0%}": round(counted.flops_per_token * scale.tokens / (share * PEAK_FLOPS["H100"]) / 3600, 2)
                for share in (0.05, 0.1, 0.2, 0.4)
            },
            "hours_of_memory_traffic_unfused": round(
                counted.bytes_per_token * scale.tokens / BANDWIDTH["H100"] / 3600, 2
            ),
            "hours_of_launches_uncompiled": round(counted.launches * passes * LAUNCH_SECONDS / 3600, 2),
            "launches_per_micro_batch": counted.launches,
            "logits_bytes": logits,
            "logits_bytes_in_chunks": chunk,
            "memory_bytes": memory,
            "trainings_in_80_GB": int(80e9 // memory),
        }
    return result


@dataclass(frozen=True)
class _Counts:
    """Counts of one forward and backward pass of the root."""

    parameters: int
    flops_per_token: float
    launches: int
    bytes_per_token: float
    saved_per_token: float


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, except views, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(value.alias_info and not value.alias_info.is_write for value in func._schema.returns):
            self.launches += 1
            tensors = [tensor for tensor in tree_leaves((args, kwargs, result)) if isinstance(tensor, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def _counted(stage: str) -> _Counts:
    """Counts from models of one and of two blocks, extrapolated to all blocks."""
    prepare_child()
    scale = load_scale(stage)
    single, double = (_counts_of(replace(scale, blocks=blocks)) for blocks in (1, 2))
    return _Counts(
        *(int(x + (scale.blocks - 1) * (y - x)) for x, y in zip(astuple(single), astuple(double), strict=True))
    )


def _counts_of(scale: Scale) -> _Counts:
    """Counts per token, from the difference between passes over one and over two chunks."""
    sizes, program = ModelSizes.of(scale, VOCABULARY), zoo.baselines()[0].program
    flops = flops_per_token(program, sizes, 2 * CHUNK, "fp32") or 0.0
    model = build_model(program, sizes, seed=0, device="cpu")
    model.loss_chunk = scale.loss_chunk
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    counts = []
    for length in (CHUNK, 2 * CHUNK):
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        rows = torch.zeros(1, length + 1, dtype=torch.int64)
        with _Operations() as operations, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with autocast("cpu", BF16):
                loss, _ = model(rows[:, :-1], rows[:, 1:])
            torch.autograd.backward(loss)
        model.zero_grad(set_to_none=True)
        counts.append((operations.launches, operations.bytes, sum(saved.values())))
    (launches, *first), (_, *second) = counts
    moved, activations = ((after - before) / CHUNK for before, after in zip(first, second, strict=True))
    return _Counts(parameter_count(model), flops, launches, moved, activations)


async def sandbox_part(bench: Bench) -> Result:
    """Two steps of every program of the zoo, and hostile programs, within the limits of a GPU training."""
    report: Result = {"left_out": [] if bench.gpu else ["CUDA, compiled programs"]}
    scale = bench.scale(blocks=2, batch=8, micro_batch=8, tokens=2 * 8 * 2048 if bench.gpu else 512, log_every=1)
    corpus = synthetic_corpus(VOCABULARY if bench.gpu else 256, 1 << 20)
    async with Sandbox() as sandbox:
        report["level"] = sandbox.level
        for baseline in zoo.baselines():
            for compiled in (False, True) if bench.gpu else (False,):
                name = f"{baseline.name}{' compiled' if compiled else ''}"
                started = time.monotonic()
                try:
                    result = await train(baseline.program, 0, replace(scale, compile=compiled), corpus, sandbox)
                    measured = result.measurements
                    report[name] = {
                        "loss": round(result.loss, 4), "compiled": measured.compiled,
                        "peak_memory_bytes": measured.peak_memory_bytes,
                        "seconds": round(time.monotonic() - started, 1),
                    }  # fmt: skip
                except TrainingFailed as failed:
                    report[name] = {"error": f"{failed.kind}: {failed.message} {failed.log_tail[-800:]}"}
        report["hostile"] = {what: await _hostile(sandbox, text, scale) for what, text in HOSTILE.items()}
    report["ok"] = not any("error" in value for value in report.values() if isinstance(value, dict)) and all(
        answer.startswith("refused") for answer in report["hostile"].values()
    )
    return report


async def _hostile(sandbox: Sandbox, text: str, scale: Scale) -> str:
    """The outcome of a program that does something forbidden when it is loaded."""
    program = f"{text}\n{zoo.baseline('delta_net').program}"
    limits: Limits = replace(limits_of(scale), wall_seconds=60.0, cpu_seconds=60.0)
    try:
        async with sandbox.child(JOB, limits) as child:
            session = Session(Job(program, 0, scale, synthetic_corpus(256, 1 << 16)), Supervision(), child, _unscored)
            await session.begin()
    except TrainingFailed as failed:
        return f"refused: {failed.message[:160]}"
    except ChildError as error:
        return f"refused: {error.reason[:160]}"
    return "NOT refused"


async def kernels_part(bench: Bench) -> Result:
    """Outputs and gradients of programs, of packed sequences and of caches."""
    if reason := unavailable(bench.device):
        return {"left_out": [reason], "ok": None}
    programs = {baseline.name: baseline.program for baseline in zoo.baselines()} | probes()
    lengths, precisions = ((1, 63, 64, 100, 2048), ("bf16", "fp32")) if bench.gpu else ((65,), ("fp32",))
    report: Result = {"left_out": [] if bench.gpu else ["CUDA, bf16, lengths other than 65"]}
    compared = [
        comparison
        for precision in precisions
        for comparison in await asyncio.to_thread(compare_programs, programs, lengths, bench.device, precision)
    ]
    report["compared"] = [asdict(comparison) | {"agrees": comparison.agrees} for comparison in compared]
    report["ok"] = all(comparison.agrees for comparison in compared)
    return report


async def throughput_part(bench: Bench) -> Result:
    """Speed in the sandbox, with and without compilation, and of fla's own layer in a bare loop."""
    report: Result = {"left_out": [] if bench.gpu else ["CUDA: a CPU's numbers at a scale of seconds", "fla's layers"]}
    stages = ("explore", "verify") if bench.gpu else ("explore",)
    async with Sandbox() as sandbox:
        for stage in stages:
            for name in MEASURED:
                row: Result = {}
                for compiled in (False, True) if bench.gpu else (False,):
                    scale = _timed_scale(bench, stage, compiled)
                    row["compiled" if compiled else "plain"] = await _ours(name, scale, sandbox, bench)
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    arguments = (name, _timed_scale(bench, stage, False), bench.gpu)
                    try:
                        bare = await asyncio.get_running_loop().run_in_executor(pool, _bare, *arguments)
                        row["bare"] = {"tokens_per_second": round(bare)}
                    except Exception as error:  # noqa: BLE001 - fla's layers refuse sizes in many ways; it is the result
                        row["bare"] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
                report[f"{stage} {name}"] = row
    report["ok"] = not any("error" in part for row in report.values() if isinstance(row, dict) for part in row.values())
    return report


def _timed_scale(bench: Bench, stage: str, compiled: bool) -> Scale:
    """A training of a dozen steps with one micro-batch each."""
    own = load_scale(stage)
    micro = own.micro_batch if bench.gpu else 4
    tokens = 12 * micro * (own.context if bench.gpu else 64)
    return bench.scale(stage, batch=micro, micro_batch=micro, tokens=tokens, log_every=2, compile=str(compiled).lower())


async def _ours(name: str, scale: Scale, sandbox: Sandbox, bench: Bench) -> Result:
    """Tokens per second by the host's clock, without the first steps."""
    job = Job(zoo.baseline(name).program, 0, scale, synthetic_corpus(VOCABULARY if bench.gpu else 256, 1 << 22))
    try:
        async with sandbox.child(JOB, limits_of(scale)) as child:
            session = Session(job, Supervision(), child, _unscored)
            await session.begin()
            parameters = sum(int(session.first[f"model/{parameter}"].size) for parameter in session.parameters)
            await session.run()
    except TrainingFailed as failed:
        return {"error": f"{failed.kind}: {failed.message} {failed.log_tail[-800:]}"}
    later = session.history[len(session.history) // 2 :]
    speed = scale.tokens_per_step / (sum(progress.seconds_per_step for progress in later) / len(later))
    peak = next((value for key, value in PEAK_FLOPS.items() if bench.gpu and key in device_name("cuda")), None)
    return {
        "tokens_per_second": round(speed),
        "peak_memory_bytes": later[-1].peak_memory_bytes,
        "model_flops_utilisation": None if peak is None else round(6 * parameters * speed / peak, 4),
        "compiled": session.compiled,
    }


def _bare(name: str, scale: Scale, layers: bool) -> float:
    """The bare loop's tokens per second, in this process; with fla's own layer if `layers`."""
    prepare_child(scale.threads, scale.device)
    vocabulary = VOCABULARY if layers else 256
    corpus = synthetic_corpus(vocabulary, 1 << 22)
    order = batches(corpus.train, batch=scale.batch, context=scale.context, seed=0, first=0, count=scale.steps)

    def mixer(layer: int) -> torch.nn.Module:
        if not layers:
            return load_mixer(zoo.baseline(name).program, MixerSizes(scale.width, scale.heads, layer))
        import fla.layers

        kind = getattr(fla.layers, FLA_LAYERS[name])
        sizes = {"head_dim": 2 * scale.width // scale.heads} if name == "mamba2" else {}
        module: torch.nn.Module = kind(hidden_size=scale.width, num_heads=scale.heads, layer_idx=layer, **sizes)
        return module

    return tokens_per_second(
        mixer, torch.from_numpy(np.stack(list(order))), width=scale.width, inner=scale.feed_forward,
        blocks=scale.blocks, vocabulary=vocabulary, micro_batch=scale.micro_batch, device=scale.device,
        precision=scale.precision,
    )  # fmt: skip


async def budget_part(bench: Bench) -> Result:
    """GPU-hours of one explore training from the measured speeds, and the speed of several concurrent trainings."""
    report: Result = {"goal_gpu_hours": GOAL_HOURS, "paper_gpu_hours": PAPER_HOURS, "left_out": []}
    if not bench.gpu:
        report["left_out"] = ["GPU-hours, which cannot be measured on a CPU"]
    for key, row in bench.results.get("throughput", {}).items():
        if bench.gpu and key.startswith("explore ") and isinstance(row, dict):
            best = max((part.get("tokens_per_second", 0) for name, part in row.items() if name != "bare"), default=0)
            report[key] = {"gpu_hours": round(EXPLORE_TOKENS / best / 3600, 3)} if best else {"error": "no speed"}
    if bench.mps is None:
        report["left_out"] = [*report["left_out"], "kernels of several trainings at the same time (--mps FOLDER)"]
    async with Sandbox(mps=bench.mps) as sandbox:
        scale = _timed_scale(bench, "explore", False)
        for count in (1, 2, 4):
            started = time.monotonic()
            rows = await asyncio.gather(*(_ours("delta_net", scale, sandbox, bench) for _ in range(count)))
            speeds = [row.get("tokens_per_second", 0) for row in rows]
            report[f"{count} at once"] = {
                "tokens_per_second": sum(speeds), "seconds": round(time.monotonic() - started, 1),
            }  # fmt: skip
    report["ok"] = all(report[f"{count} at once"]["tokens_per_second"] for count in (1, 2, 4))
    return report


async def loop_part(bench: Bench) -> Result:
    """A complete `asi-arch run`, at explore on a GPU."""
    candidates = 5 if bench.gpu else 1
    settings = {
        "tasks": "copying,induction",
        "averaged": "copying,induction",
        "task_limit": 32,
        "corpus": "python-source",
    }
    if bench.gpu:
        settings |= {"tokens": 20_000_000, "tokenizer": "", "heldout_blocks": 64, "batch": 32}
    else:
        settings |= {"steps": 6, "width": 32, "heads": 2, "feed_forward": 64, "context": 64, "heldout_blocks": 16}
        settings |= {"check_truncations": 8, "evaluations": 1}
    command = [sys.executable, "-m", "services.console", "run", "--json", "--candidates", str(candidates)]
    command += ["--scale", "explore" if bench.gpu else "mini", "--baselines", "delta_net,gated_delta_net"]
    command += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            env={**os.environ, "ASI_DATA_DIR": folder},
            capture_output=True,
            text=True,
            check=False,
            timeout=LOOP_SECONDS,
        )
        seconds = time.monotonic() - started
    if not done.stdout.strip():
        return {"error": done.stderr[-2000:], "ok": False}
    rows = json.loads(done.stdout)
    outcomes = [{name: row[name] for name in ("name", "state", "loss", "fitness", "reason")} for row in rows]
    return {
        "left_out": [] if bench.gpu else ["CUDA, 20M tokens"], "candidates": outcomes, "seconds": round(seconds, 1),
        "ok": sum(row["loss"] is not None for row in rows) >= 2,
    }  # fmt: skip


async def drain_part(bench: Bench) -> Result:
    """The curve of a training that was drained after its first chunk and resumed, against an uninterrupted one."""
    scale = bench.scale(blocks=2, batch=8, micro_batch=8, tokens=12 * 8 * 2048 if bench.gpu else 12 * 256, log_every=4)
    corpus, program = synthetic_corpus(VOCABULARY if bench.gpu else 256, 1 << 20), zoo.baseline("delta_net").program
    with tempfile.TemporaryDirectory() as folder:
        path, stop = Path(folder) / "checkpoint", asyncio.Event()

        def drain(_: Metrics) -> None:
            stop.set()

        async with Sandbox() as sandbox:
            uninterrupted = await train(program, 0, scale, corpus, sandbox)
            try:
                await train(program, 0, scale, corpus, sandbox, on_progress=drain, stop=stop, checkpoint=path)
                return {"error": "the training did not drain", "ok": False}
            except Drained as drained:
                at = drained.step
            resumed = await train(program, 0, scale, corpus, sandbox, checkpoint=path)
    gap = abs(resumed.loss - uninterrupted.loss)
    return {
        "left_out": [] if bench.gpu else ["CUDA"],
        "drained_at_step": at, "loss": uninterrupted.loss, "resumed_loss": resumed.loss,
        "ok": gap == 0 if not bench.gpu else gap < 0.02,
    }  # fmt: skip


async def _unscored(weights: Weights, step: int) -> float:  # noqa: ARG001
    raise AssertionError("the scales of this benchmark have no evaluations")


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
            result = await PARTS[name](Bench(options.device, results, options.mps))
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
