"""What makes training on a GPU faster changes no result: chunked loss, kept kernels, batches that are read ahead."""

import asyncio
import io
import itertools
import tarfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch._dynamo
import torch.nn.functional as F

from services.domain.zoo import baseline
from services.engineer.data import Corpus
from services.engineer.evaluation.reader import MAX_LOGITS, Reader, open_reader
from services.engineer.scales import Scale, load_scale
from services.engineer.speed import measure_speed, training_seconds
from services.engineer.training.child import build_model, model_arrays
from services.engineer.training.compiled import ARRAY, MAX_FILES, CompileCache, pack, unpack
from services.engineer.training.host import JOB, train
from services.engineer.training.model import NOT_COUNTED, Block, chunked_loss
from services.engineer.training.session import Job
from services.engineer.training.sizes import Plan, model_sizes
from services.engineer.training.trainer import Trainer
from services.sandbox import Child, SandboxUnavailable
from tests.engineer.training.inline_sandbox import ChildEnd, InlineSandbox
from tests.engineer.training.programs import CONVOLUTION, mixer

DROPOUT = mixer("x = F.dropout(x, 0.5, self.training)")


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
def test_a_loss_in_chunks_is_the_loss_with_its_gradients(chunk: int, low: bool) -> None:
    """The logits of a whole batch of a large vocabulary need more memory than the model."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 33, 16, requires_grad=True), torch.randn(101, 16, requires_grad=True)
    targets = torch.randint(0, 101, (2, 33))
    targets[0, :5] = NOT_COUNTED
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        unchunked = F.cross_entropy(F.linear(hidden, weight).float().flatten(0, 1), targets.flatten())
        expected = torch.autograd.grad(unchunked, [hidden, weight])
        loss = chunked_loss(hidden, weight, targets, chunk)
    gradients = torch.autograd.grad(loss * 2, [hidden, weight])

    tolerance = 2e-2 if low else 1e-5
    torch.testing.assert_close(loss, unchunked, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, 2 * theirs, rtol=tolerance, atol=tolerance)


async def test_a_speed_is_measured_over_more_than_a_moment(small: Scale, corpus: Corpus) -> None:
    """Three steps of a small model take a tenth of a second, in which other work on the machine decides."""
    sandbox = InlineSandbox()
    speed = await measure_speed(sandbox, small, corpus, 1, at_least=0.5)
    trained = [message.arrays["tokens"] for message in sandbox.sent[JOB] if "tokens" in message.arrays]

    assert len(trained) > 2
    assert sum(len(tokens) for tokens in trained[1:]) * small.tokens_per_step / speed >= 0.5


async def test_a_measurement_that_fails_ends_the_others(small: Scale, corpus: Corpus) -> None:
    """Trainings wait for each other before they are timed, and would wait for the failed one in their children."""
    children = itertools.count()

    def job(channel: ChildEnd) -> None:
        fails = next(children) == 1
        while (request := channel.receive()).kind != "end":
            kind = "failed" if fails else {"begin": "ready", "train": "metrics"}[request.kind]
            channel.send(kind, {"error": "ValueError", "message": "broken"})

    before = asyncio.all_tasks()
    with pytest.raises(SandboxUnavailable, match="broken"):
        await measure_speed(InlineSandbox({JOB: job}), small, corpus, 2)

    assert asyncio.all_tasks() == before


async def test_a_training_with_a_loss_in_chunks_is_the_same_training(small: Scale, corpus: Corpus) -> None:
    """Its audit, which recomputes a segment without chunks, agrees too."""
    unchunked = await train(CONVOLUTION, 0, small, corpus, InlineSandbox())
    chunked = await train(CONVOLUTION, 0, replace(small, loss_chunk=50), corpus, InlineSandbox())

    assert chunked.loss == pytest.approx(unchunked.loss, abs=1e-4)


def test_compiled_kernels_are_cached_for_the_zoo_only_and_unpacked_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stranger's program left would be executed by the next one. Each of the zoo adds what it needs."""
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "kernels").mkdir(parents=True)
    second.mkdir()
    (first / "kernels" / "a.cubin").write_bytes(b"kernel")
    cache = CompileCache.below(tmp_path / "data", "cuda", {"torch": "2"})
    monkeypatch.setenv("TRITON_CACHE_DIR", str(first))
    assert cache.arrays() == {}
    assert cache.accepts(baseline("delta_net").program)
    assert not cache.accepts(CONVOLUTION)
    cache.store(pack())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(second))
    unpack(cache.arrays())

    assert (second / "kernels" / "a.cubin").read_bytes() == b"kernel"
    (second / "kernels" / "b.cubin").write_bytes(b"another")
    more = pack()
    cache.store(more)
    cache.store(pack()[:100])
    assert len(cache.arrays()[ARRAY]) == len(more)
    for number in range(MAX_FILES):
        (second / f"{number}").touch()
    assert not pack().size  # in a child that extracts so many files, few others fit
    assert CompileCache.below(tmp_path / "data", "cuda", {"torch": "3"}).arrays() == {}


def test_an_archive_with_paths_outside_its_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file on the host may have been changed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "inside"))
    with pytest.raises(tarfile.OutsideDestinationError):
        unpack({ARRAY: np.frombuffer(buffer.getvalue(), dtype=np.uint8)})


async def test_children_that_score_get_the_compiled_kernels_of_the_zoo(
    small: Scale, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training starts half a dozen of them, and each would tune the same kernels again."""
    (tmp_path / "a.cubin").write_bytes(b"kernel")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    cache = CompileCache.below(tmp_path / "data", "cuda", {"torch": "2"})
    cache.store(pack())
    job, sandbox = Job(CONVOLUTION, 0, replace(small, compile=True), corpus, cache), InlineSandbox()
    model = build_model(CONVOLUTION, job.sizes, 0, "cpu")
    (tmp_path / "a.cubin").unlink()
    async with open_reader(job, sandbox, model_arrays(model)) as reader:
        await reader.hidden(next(iter(job.batches(0, 1))))

    assert (tmp_path / "a.cubin").read_bytes() == b"kernel"


def test_scores_are_computed_in_parts_by_several_threads(small: Scale, corpus: Corpus) -> None:
    """On one core, those of a large vocabulary take longer than a training on a GPU."""
    random = np.random.default_rng(0)
    hidden, head = random.standard_normal((3, 50, 8), np.float32), random.standard_normal((70_000, 8), np.float32)
    targets = random.integers(len(head), size=(3, 50))
    assert targets.size * len(head) > 2 * MAX_LOGITS
    job = Job(CONVOLUTION, 0, replace(small, threads=2), corpus)
    predictions = Reader(cast("Child", None), job, head, 1.0).score(hidden, targets)
    logits = torch.from_numpy(hidden.astype(np.float64) @ head.T.astype(np.float64))
    expected = logits.log_softmax(-1).gather(-1, torch.from_numpy(targets)[..., None])[..., 0]

    np.testing.assert_allclose(predictions.log_probs, expected, atol=1e-5)
    np.testing.assert_array_equal(predictions.greedy, logits.argmax(-1).numpy() == targets)


def test_a_block_is_compiled_as_a_whole_and_computes_the_same(small: Scale) -> None:
    """What the compiler cannot follow is computed one operation at a time."""
    torch.manual_seed(0)
    block, x = Block(torch.nn.Identity(), model_sizes(small, 256)), torch.randn(2, 5, small.width, requires_grad=True)
    compiled = torch._dynamo.optimize("aot_eager", nopython=True)(block._call_impl)
    outputs = [compiled(x)[0], block(x)[0]]
    gradients = [torch.autograd.grad(output.square().sum(), [x, *block.parameters()]) for output in outputs]

    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_program_whose_backward_cannot_be_compiled_is_trained_without_compilation(
    small: Scale, corpus: Corpus
) -> None:
    """The compiler compiles it when it first runs, after the forward, whose noise is drawn again."""

    def compile_backward(_: torch.Tensor) -> None:
        raise RuntimeError("no valid configuration")

    reports = []
    for compiled in (True, False):
        job = Job(DROPOUT, 0, replace(small, compile=compiled), corpus)
        trainer = Trainer(build_model(DROPOUT, job.sizes, 0, "cpu"), Plan.of(job.scale), "cpu")
        for block in trainer.model.blocks if compiled else ():

            def compiled_block(x: torch.Tensor, block: torch.nn.Module = block) -> tuple[torch.Tensor, None]:
                output, _ = block.forward(x)
                output.register_hook(compile_backward)
                return output, None

            block._compiled_call_impl = compiled_block
        with pytest.warns(UserWarning, match="Not compiled: no valid configuration") if compiled else nullcontext():
            reports += [trainer.step(0, torch.from_numpy(next(iter(job.batches(0, 1)))))]

    assert reports[0] == reports[1]


async def test_trainings_that_share_a_gpu_get_a_share_of_its_memory_each(small: Scale, corpus: Corpus) -> None:
    """None takes what another one needs."""
    sandbox = InlineSandbox()
    await train(CONVOLUTION, 0, replace(small, per_device=2), corpus, sandbox)

    assert sandbox.sent[JOB][0].header["memory_share"] == 0.5


def test_the_estimate_of_a_training_holds_its_trained_tasks() -> None:
    """At tiny one takes a quarter of the time: a run that was announced as 7 minutes took more than 10."""
    tiny = load_scale("tiny")
    alone = training_seconds(replace(tiny, tasks=()), 15_000)

    assert training_seconds(tiny, 15_000) - alone == pytest.approx(20)
