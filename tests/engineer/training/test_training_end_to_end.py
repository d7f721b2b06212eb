"""From a program's text to scores, through the pipe."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from services.chassis.errors import Transient
from services.engineer.data import Corpus
from services.engineer.scales import Scale, load_scale
from services.engineer.training.child import flops_per_token
from services.engineer.training.host import JOB, train
from services.engineer.training.measurements import joules_of
from services.engineer.training.result import Drained, LooksAhead, Metrics, TrainingFailed
from services.engineer.training.sizes import ModelSizes
from services.engineer.training.watcher import WatchSettings
from tests.engineer.training import programs
from tests.engineer.training.inline_sandbox import ChildEnd, InlineSandbox
from tests.engineer.training.programs import SMALL


async def test_a_training_yields_a_finite_loss_with_everything_measured(small: Scale, corpus: Corpus) -> None:
    """The whole way of one seed: curve, held-out loss, error, measurements."""
    result = await train(programs.CONVOLUTION, 0, small, corpus, InlineSandbox())

    assert [point.step for point in result.curve] == [4, 6, 8, 12]
    assert result.curve[1].loss is not None
    assert 2.0 < result.loss < 6.0
    assert result.loss == pytest.approx(np.mean(result.block_losses))
    assert result.bits_per_byte == pytest.approx(result.loss / np.log(2))
    assert result.loss_stderr > 0
    assert result.benchmark is None
    assert result.measurements.parameters > 10_000
    assert result.measurements.flops_per_token is not None
    assert result.measurements.energy_joules is None
    assert result.measurements.data_fingerprint == corpus.fingerprint


def test_flops_of_parts_that_the_backward_pass_repeats_are_counted() -> None:
    """Hooks by module, which torch's counter sets, fail in a checkpoint that is reentrant."""
    sizes, head = ModelSizes(256, 32, 1, 2, 64, tied=False), "from torch.utils.checkpoint import checkpoint\n"
    repeated = head + programs.mixer("x = checkpoint(self.out, x, use_reentrant=True)")
    plain, twice = (flops_per_token(text, sizes, 64, "fp32") for text in (programs.CONVOLUTION, repeated))

    assert plain is not None
    assert twice is not None
    assert twice - plain == pytest.approx(4 * 2 * 32 * 32)


async def test_the_same_seed_gives_the_same_loss_and_another_seed_another(small: Scale, corpus: Corpus) -> None:
    """Repeatability is what every comparison rests on."""
    first, again, other = [
        (await train(programs.CONVOLUTION, seed, small, corpus, InlineSandbox())).loss for seed in (0, 0, 1)
    ]

    assert first == again
    assert first != other


@pytest.mark.parametrize("program", [programs.CONVOLUTION, programs.COMPLEX_PARAMETERS], ids=["real", "complex"])
async def test_a_drained_training_resumes_bit_for_bit(
    program: str, small: Scale, corpus: Corpus, tmp_path: Path
) -> None:
    """Draining and resuming must not change a result."""
    uninterrupted = await train(program, 0, small, corpus, InlineSandbox())
    stop, path = asyncio.Event(), tmp_path / "c.safetensors"

    def drain_at_once(metrics: Metrics) -> None:
        stop.set()

    with pytest.raises(Drained) as drained:
        await train(
            program,
            0,
            small,
            corpus,
            InlineSandbox(),
            on_progress=drain_at_once,
            stop=stop,
            checkpoint=path,
        )
    resumed = await train(program, 0, small, corpus, InlineSandbox(), checkpoint=path)

    assert drained.value.step == 4
    assert resumed.curve == uninterrupted.curve
    assert resumed.block_losses == uninterrupted.block_losses
    assert not path.exists()


async def test_another_programs_checkpoint_is_ignored(small: Scale, corpus: Corpus, tmp_path: Path) -> None:
    """Weights of one candidate must never become the start of another."""
    stop, path = asyncio.Event(), tmp_path / "c.safetensors"
    stop.set()
    with pytest.raises(Drained):
        await train(programs.CONVOLUTION, 0, small, corpus, InlineSandbox(), stop=stop, checkpoint=path)
    fresh = await train(programs.WITH_AUXILIARY_LOSS, 0, small, corpus, InlineSandbox(), checkpoint=path)

    assert fresh.curve[0].step == 4


async def test_a_damaged_checkpoint_is_ignored(small: Scale, corpus: Corpus, tmp_path: Path) -> None:
    """The training begins again, which costs time only."""
    path = tmp_path / "c.safetensors"
    path.write_bytes(b"cut off in the mid")
    fresh = await train(programs.CONVOLUTION, 0, small, corpus, InlineSandbox(), checkpoint=path)

    assert fresh.curve[0].step == 4


async def test_heldout_tokens_never_reach_the_training_child(small: Scale, corpus: Corpus) -> None:
    """What is not sent cannot be memorised."""
    sandbox = InlineSandbox()
    await train(programs.CONVOLUTION, 0, small, corpus, sandbox)
    sent = np.concatenate([m.arrays["tokens"].reshape(-1, 65) for m in sandbox.sent[JOB] if m.kind == "train"])
    train_text = corpus.train.tobytes()

    assert len(sent) == small.steps * small.batch
    assert all(row.astype(np.uint8).tobytes() in train_text for row in sent)


async def test_looking_ahead_only_during_scoring_is_detected(small: Scale, corpus: Corpus) -> None:
    """The check may be passed by a program that behaves there; the scorer compares with truncated sequences."""
    with pytest.raises(LooksAhead) as raised:
        await train(programs.LOOKS_AHEAD_WHEN_SCORED, 0, small, corpus, InlineSandbox())

    assert raised.value.kind == "looks-ahead"
    assert raised.value.evidence["compared"] == 8


async def test_a_missing_gpu_does_not_count_against_the_program(
    monkeypatch: pytest.MonkeyPatch, small: Scale, corpus: Corpus
) -> None:
    """An engineer that was started on the wrong machine rejected every candidate that it received."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Transient, match="torch finds none here"):
        await train(programs.CONVOLUTION, 0, replace(small, device="cuda"), corpus, InlineSandbox())


async def test_a_training_on_a_cpu_leaves_the_machines_gpu_alone(
    small: Scale, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each child's CUDA context would take half a gigabyte of it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    result = await train(programs.CONVOLUTION, 0, small, corpus, InlineSandbox())

    assert np.isfinite(result.loss)


def test_the_energy_is_that_of_the_gpu_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML numbers all GPUs of the machine, of which an engineer sees one."""
    library = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda _: pytest.fail("the index is that of another GPU"),
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: {"GPU-77c1": 5000}[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="77c1"))

    assert joules_of("cuda", 1.0) == 4.0


async def test_an_error_of_the_program_comes_back_with_its_traceback(small: Scale, corpus: Corpus) -> None:
    """It is what a mind needs to repair the program."""
    with pytest.raises(TrainingFailed) as failed:
        await train(programs.RAISES, 0, small, corpus, InlineSandbox())

    assert failed.value.kind == "error"
    assert "torch.zeros(3, 5)" in failed.value.log_tail or "RuntimeError" in failed.value.log_tail


async def test_a_loss_that_is_not_a_number_stops_the_training(small: Scale, corpus: Corpus) -> None:
    """NaN is refused and never becomes a score."""
    with pytest.raises(TrainingFailed) as failed:
        await train(programs.NOT_A_NUMBER, 0, small, corpus, InlineSandbox())

    assert failed.value.kind == "stopped"
    assert failed.value.evidence["rule"] == "not-finite"


async def test_an_auxiliary_loss_is_recorded_and_not_added(small: Scale, corpus: Corpus) -> None:
    """Whether a program trains on more than the text must be visible in its result."""
    plain = await train(programs.CONVOLUTION, 0, small, corpus, InlineSandbox())
    with_loss = await train(programs.WITH_AUXILIARY_LOSS, 0, small, corpus, InlineSandbox())

    assert plain.measurements.auxiliary_loss is None
    assert with_loss.measurements.auxiliary_loss is not None
    assert with_loss.loss == pytest.approx(plain.loss, rel=1e-6)  # held-out text is read in another order


async def test_accumulating_micro_batches_changes_only_rounding(small: Scale, corpus: Corpus) -> None:
    """A small GPU must be able to train what a big one trains."""
    halves = load_scale("tiny", {**SMALL, "micro_batch": "2", "precision": "fp32"})
    single = load_scale("tiny", {**SMALL, "precision": "fp32"})
    losses = [(await train(programs.CONVOLUTION, 0, scale, corpus, InlineSandbox())).loss for scale in (single, halves)]

    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


async def test_a_child_that_forges_its_answers_is_refused(small: Scale, corpus: Corpus) -> None:
    """The protocol is checked, field by field, on the trusted side."""

    def forger(channel: ChildEnd) -> None:
        channel.receive()
        channel.send("ready", {"parameters": 1}, {})
        channel.receive()
        channel.send("metrics", {"peak_memory_bytes": 1}, {"loss": np.zeros(1), "grad_norm": np.zeros(1)})

    with pytest.raises(TrainingFailed) as failed:
        await train(programs.CONVOLUTION, 0, small, corpus, InlineSandbox({JOB: forger}))

    assert failed.value.kind == "malformed"


async def test_a_training_that_takes_too_long_names_its_limit(small: Scale, corpus: Corpus) -> None:
    """On a busy machine it is the scale's setting that has to change, and not the program."""
    late = replace(small, wall_seconds=0.25)

    with pytest.raises(TrainingFailed, match=r"within 1 s, the rest of its time limit \(wall_seconds") as failed:
        await train(programs.CONVOLUTION, 0, late, corpus, InlineSandbox({JOB: lambda _: None}))

    assert failed.value.kind == "timeout"


async def test_the_watchers_memory_rule_uses_what_was_measured(small: Scale, corpus: Corpus) -> None:
    """A setting of the caller reaches the rule."""
    with pytest.raises(TrainingFailed, match="MiB"):
        await train(programs.CONVOLUTION, 0, small, corpus, InlineSandbox(), watch=WatchSettings(memory_bytes=1))


@pytest.mark.slow
def test_an_optimiser_imports_only_modules_of_the_sandbox() -> None:
    """A sealed child opens no file: torch would log a PermissionError that looks like the cause of a later failure."""
    step = (
        "import sys, torch, torch._dynamo, services.engineer.training.child\n"
        "before, weight = set(sys.modules), torch.nn.Parameter(torch.ones(1))\n"
        "weight.grad = torch.ones(1)\n"
        "torch.optim.AdamW([weight]).step()\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", step], capture_output=True, text=True, timeout=120, check=True)

    assert done.stdout.split() == []


UNUSUAL_PARAMETERS = {
    "infinities": 'nn.Parameter(torch.full((4, 4), float("-inf")).triu(1), requires_grad=False)',
    "indices": "nn.Parameter(torch.arange(hidden_size), requires_grad=False)",
    "half precision": "nn.Linear(hidden_size, hidden_size).to(torch.bfloat16)",
}


@pytest.mark.parametrize("name", UNUSUAL_PARAMETERS)
async def test_honest_programs_with_unusual_parameters_are_trained(name: str, small: Scale, corpus: Corpus) -> None:
    """A mask of infinities was taken for a forged step after the whole training."""
    line = f"self.more = {UNUSUAL_PARAMETERS[name]}"
    use = "x = x + 0 * self.more(x)" if name == "half precision" else "x = x + 0 * self.more.exp().sum().to(x.dtype)"
    program = programs.mixer(use.replace(".exp()", "") if name == "indices" else use).replace(
        "super().__init__()", f"super().__init__()\n        {line}"
    )

    assert np.isfinite((await train(program, 0, small, corpus, InlineSandbox())).loss)


async def test_a_buffer_that_forward_creates_is_refused(small: Scale, corpus: Corpus) -> None:
    """Each process would draw its own values, so that the scored model is not the trained one."""
    create = "hasattr(self, 'late') or self.register_buffer('late', torch.randn(x.shape[-1]))"
    with pytest.raises(TrainingFailed, match=r"the tensor blocks\.0\.mixer\.late, .* in __init__"):
        await train(programs.mixer(f"{create}\n        x = x * self.late"), 0, small, corpus, InlineSandbox())


async def test_an_error_without_a_message_is_named_alone(small: Scale, corpus: Corpus) -> None:
    """It ended in a colon with nothing behind it."""
    with pytest.raises(TrainingFailed) as failed:
        await train(programs.mixer("raise RuntimeError"), 0, small, corpus, InlineSandbox())

    assert failed.value.message == "RuntimeError"
