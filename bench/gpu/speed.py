"""Throughput in the sandbox and in a bare loop, and the GPU-hours that follow."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import torch

from bench.bare_loop import tokens_of, tokens_per_second
from bench.gpu import PEAK_FLOPS, VOCABULARY, Bench, Result, synthetic_corpus, unscored
from services.domain import zoo
from services.engineer.construction import MixerSizes
from services.engineer.program import load_mixer, prepare_child
from services.engineer.scales import Scale, load_scale
from services.engineer.training.host import JOB
from services.engineer.training.measurements import device_name
from services.engineer.training.protocol import limits_of
from services.engineer.training.result import TrainingFailed
from services.engineer.training.session import Job, Session, Supervision
from services.sandbox import Sandbox

EXPLORE_TOKENS, GOAL_HOURS, PAPER_HOURS = 1_048_576_000, 0.5, 5.6
FLA_LAYERS = {
    "delta_net": "DeltaNet", "gated_delta_net": "GatedDeltaNet", "gla": "GatedLinearAttention", "mamba2": "Mamba2",
}  # fmt: skip
"""fla's own layers of the measured programs."""


async def throughput_part(bench: Bench) -> Result:
    """Speed in the sandbox, with and without compilation, and of fla's own layer in a bare loop."""
    report: Result = {"left_out": [] if bench.gpu else ["CUDA: a CPU's numbers at a scale of seconds", "fla's layers"]}
    stages = ("explore", "verify") if bench.gpu else ("explore",)
    async with Sandbox() as sandbox:
        for stage in stages:
            for name in FLA_LAYERS:
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
                        report["left_out"].append(f"the bare loop of {stage} {name}")  # whole logits may not fit
                report[f"{stage} {name}"] = row
    ours = [part for row in report.values() if isinstance(row, dict) for key, part in row.items() if key != "bare"]
    report["ok"] = not any("error" in part for part in ours)
    return report


def _timed_scale(bench: Bench, stage: str, compiled: bool) -> Scale:
    """A training of a dozen steps with one micro-batch each."""
    own = load_scale(stage)
    micro = own.micro_batch if bench.gpu else 4
    tokens = 12 * micro * (own.context if bench.gpu else 64)
    return bench.scale(stage, batch=micro, micro_batch=micro, tokens=tokens, log_every=2, compile=str(compiled).lower())


async def _ours(name: str, scale: Scale, sandbox: Sandbox, bench: Bench) -> Result:
    """Tokens per second by the host's clock, without the first steps."""
    corpus = synthetic_corpus(VOCABULARY if bench.gpu else 256, 1 << 22)
    job = Job(zoo.baseline(name).program, 0, scale, corpus, bench.kernels(f"{name}-{scale.name}"))
    try:
        async with sandbox.child(JOB, limits_of(scale)) as child:
            session = Session(job, Supervision(), child, unscored)
            await session.begin()
            parameters = sum(int(session.first[f"model/{parameter}"].size) for parameter in session.parameters)
            await session.run()
            await session.store_compiled()
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

    def mixer(layer: int) -> torch.nn.Module:
        if not layers:
            return load_mixer(zoo.baseline(name).program, MixerSizes(scale.width, scale.heads, layer))
        import fla.layers

        kind = getattr(fla.layers, FLA_LAYERS[name])
        sizes = {"head_dim": 2 * scale.width // scale.heads} if name == "mamba2" else {}
        module: torch.nn.Module = kind(hidden_size=scale.width, num_heads=scale.heads, layer_idx=layer, **sizes)
        return module

    return tokens_per_second(mixer, tokens_of(synthetic_corpus(vocabulary, 1 << 22), scale, 0), scale, vocabulary)


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
        await add_concurrent(report, scale, lambda shared: _ours("delta_net", shared, sandbox, bench))
    report["ok"] = "error" not in report["1 at once"]
    return report


async def add_concurrent(report: Result, scale: Scale, train: Callable[[Scale], Awaitable[Result]]) -> None:
    """Add the speed of one, two and four trainings at once, which share the memory of a GPU."""
    for count in (1, 2, 4):
        started = time.monotonic()
        rows = await asyncio.gather(*(train(replace(scale, per_device=count)) for _ in range(count)))
        if failed := next((row for row in rows if "error" in row), None):  # the memory may not suffice for all
            report[f"{count} at once"] = failed
            report["left_out"].append(f"{count} at once, which failed")
            continue
        report[f"{count} at once"] = {
            "tokens_per_second": sum(row["tokens_per_second"] for row in rows),
            "seconds": round(time.monotonic() - started, 1),
        }
