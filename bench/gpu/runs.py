"""The zoo and hostile programs in the sandbox, kernels, a whole run, and a drained training."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from bench.gpu import VOCABULARY, Bench, Result, synthetic_corpus, unscored
from bench.kernels import compare_programs, probes, unavailable
from services.domain import zoo
from services.engineer.scales import Scale
from services.engineer.training.host import JOB, train
from services.engineer.training.protocol import limits_of
from services.engineer.training.result import Drained, Metrics, TrainingFailed
from services.engineer.training.session import Job, Session, Supervision
from services.sandbox import ChildError, Limits, Sandbox

LOOP_SECONDS = 2400.0
HOSTILE = {
    "opens a connection": "import socket\nsocket.create_connection(('192.0.2.1', 80), 1)",
    "reads the password file of the host": "print(open('/etc/shadow').read())",
    "writes outside of its folder": "open('/usr/written', 'w').write('x')",
    "reads another process's environment": "print(open('/proc/1/environ', 'rb').read())",
}


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
                    kernels = bench.kernels(baseline.name)
                    result = await train(
                        baseline.program, 0, replace(scale, compile=compiled), corpus, sandbox, compiled=kernels
                    )
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
            session = Session(Job(program, 0, scale, synthetic_corpus(256, 1 << 16)), Supervision(), child, unscored)
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
    if refused := sorted({comparison.program for comparison in compared if comparison.refused}):
        report["left_out"].append(f"fp32 of {', '.join(refused)}, which fla's kernels refuse")
    report["ok"] = all(comparison.agrees or comparison.refused for comparison in compared)
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
        settings |= {"tokens": 20_000_000, "tokenizer": "", "heldout_blocks": 64, "batch": 32, "evaluations": 1}
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
        path, stop, kernels = Path(folder) / "checkpoint", asyncio.Event(), bench.kernels("delta_net")

        def drain(_: Metrics) -> None:
            stop.set()

        async with Sandbox() as sandbox:
            uninterrupted = await train(program, 0, scale, corpus, sandbox, compiled=kernels)
            try:
                await train(
                    program, 0, scale, corpus, sandbox,
                    on_progress=drain, stop=stop, checkpoint=path, compiled=kernels,
                )  # fmt: skip
                return {"error": "the training did not drain", "ok": False}
            except Drained as drained:
                at = drained.step
            resumed = await train(program, 0, scale, corpus, sandbox, checkpoint=path, compiled=kernels)
    gap = abs(resumed.loss - uninterrupted.loss)
    return {
        "left_out": [] if bench.gpu else ["CUDA"],
        "drained_at_step": at, "loss": uninterrupted.loss, "resumed_loss": resumed.loss,
        "ok": gap == 0 if not bench.gpu else gap < 0.02,
    }  # fmt: skip
