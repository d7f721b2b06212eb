"""Probes that run in the child, next to the program, to find mistakes such as an unused parameter.

A finding can only reject a program: whatever scores depend on is measured by the host, in `structure`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from services.engineer.checks.compare import largest_gap, other_shape
from services.engineer.checks.metering import cost, line_of_non_finite, unusual_state
from services.engineer.checks.remote import State
from services.engineer.checks.report import JSON, ArithmeticName, Finding
from services.engineer.checks.subject import (
    ARITHMETICS,
    AUTOCAST,
    GRADIENT_SHAPE,
    SINGLE,
    Arithmetic,
    Subject,
    accepts,
    output_of,
    parameters_of,
    shapes_of,
    without_gradient,
    without_gradient_after_step,
    written_since,
)
from services.engineer.program import explain, traceback_tail

SHAPE = (2, 65)  # (batch, length)
_LABELS: Mapping[ArithmeticName, str] = {"single": "fp32", "autocast": "bf16-autocast"}
_REMEDY = "name no dtype, or cast operands to a common one, as in y.to(x.dtype); it trains with --set precision="
RUN_SHAPES = ((2, 64), (1, 1), (3, 37), (1, 130))  # (batch, length): whole chunks, a single token, odd, several chunks
_ANY_SIZE = ": inputs may have any batch and length, so pad the end to whole chunks, and cut the output"
STEPS = 2  # a tensor that is kept with its graph fails in the second one
LARGE = 1e3
_NOT_FINITE = "the output is not finite for standard normal inputs"
DRIFT_CALLS, CHECKPOINT_CALLS = 4, 3
DECODED_LENGTH, PREFILL, DECODED_STATE = 40, 33, State(randomised=True)


def _compare(
    subject: Subject, expected: Tensor, actual: Tensor, violation: str, agreement: str, **evidence: JSON
) -> Finding:
    left, right = (output.detach().double().numpy() for output in (expected, actual))
    gap = largest_gap(left, right, subject.exact.tolerance)
    if gap.relative > subject.exact.tolerance:
        return Finding(True, violation, gap.evidence() | evidence)
    return Finding(False, agreement)


def runs(subject: Subject) -> Finding:
    """Builds the mixer and runs it forward and backward at several batch sizes and lengths, as in training.

    Two steps follow each other at the first size, and leave the names and shapes of the mixer's tensors, the second one
    also the parameters. The scale's precision is tested; where the machine decides, one that runs suffices.
    Does not detect: failures at other sizes, lengths, devices and options, or after many calls.
    """
    names = subject.settings.of_training
    failures = {name: failure for name in names if (failure := _failure(subject, name))}
    if len(failures) == len(names):
        return failures[names[0]]
    fault = unusual_state(subject)
    message = f"{type(subject.fresh(subject.plain)).__name__} builds and runs forward and backward"
    if failures:
        here = next(_LABELS[name] for name in names if name not in failures)
        message += f", in {here} only; for {_LABELS[next(iter(failures))]}, {_REMEDY}{here}"
    return Finding(fault is not None, fault or message, {"precision": subject.exact.name})


def _failure(subject: Subject, name: ArithmeticName) -> Finding | None:
    for batch, length in RUN_SHAPES:
        where: dict[str, JSON] = {"batch": batch, "length": length, "precision": name}
        size = f" (batch {batch}, length {length})"
        sizes, steps = ("", STEPS) if (batch, length) == RUN_SHAPES[0] else (size, 1)
        step = partial(_problem, subject, ARITHMETICS[name], batch, length, steps)
        try:
            problem = step()
        except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
            message = explain(error, step)[:800]
            sizes = size if ": assert " in message else sizes  # what a program asserts may depend on them
            other_size = steps == 1 and message.startswith(type(error).__name__)  # and it has no explanation yet
            message += _advice(subject, name, batch, length) + sizes + (_ANY_SIZE if other_size else "")
            return Finding(True, message, {**where, "traceback": traceback_tail(error)})
        if problem == _NOT_FINITE:
            first = f", first in {line}" if (line := line_of_non_finite(step)) else ""
            problem += f"{first}: torch.empty sets no values, and a softmax over masked positions alone gives NaN"
        if problem:
            return Finding(True, problem + sizes, where)
    return None


def _advice(subject: Subject, name: ArithmeticName, batch: int, length: int) -> str:
    """The fix for a program that fails in one precision and runs in the other."""
    fallback = AUTOCAST if name == SINGLE.name else SINGLE
    try:
        if _problem(subject, fallback, batch, length):
            return ""
    except Exception:  # noqa: BLE001 - candidate code may raise anything; the first error is reported
        return ""
    return (
        f" (training here computes in {_LABELS[name]}, but the program runs only in {_LABELS[fallback.name]}: "
        f"{_REMEDY}{_LABELS[fallback.name]})"
    )


def _problem(subject: Subject, arithmetic: Arithmetic, batch: int, length: int, steps: int = 1) -> str | None:
    """What is wrong with forwards and backwards of one new mixer, if anything; exceptions are raised."""
    mixer = subject.fresh(arithmetic)
    shapes, noise = shapes_of(mixer), subject.noise(batch, length, subject.width).to(arithmetic.dtype)
    for _ in range(steps):
        before = parameters_of(mixer)
        inputs = noise.clone().requires_grad_()
        with arithmetic.active():
            output = output_of(mixer(inputs))
        if output.shape != inputs.shape:
            return other_shape(output.shape, inputs.shape)
        if not output.requires_grad:
            return "the output has no gradient: compute it from parameters, without torch.no_grad() and detach()"
        arithmetic.backward(output.float().pow(2).mean())
        if not torch.isfinite(output).all():
            return _NOT_FINITE
    if changed := sorted(name for name, _ in shapes.items() ^ shapes_of(mixer).items()):
        advice = "create parameters and buffers in __init__, with fixed sizes, and tables for a length in each forward"
        return f"forward creates or resizes {changed[0]}: {advice}"
    if steps > 1 and (written := written_since(before, mixer)):
        advice = "make changed weights new tensors, for each row alone, and begin each forward with the parameters"
        return f"each forward changes the parameter {written}: {advice}"
    return None


def life(subject: Subject) -> Finding:
    """Expects a gradient for at least one trainable parameter at initialisation.

    Does not detect: gradients that are useless. `unused` warns of single parameters.
    """
    mixer = subject.mixer(State(training=True))
    names = {name for name, parameter in mixer.named_parameters() if parameter.requires_grad}
    if not names:
        return Finding(True, "the mixer has no trainable parameter", {"parameters": 0})
    dead = without_gradient(subject, mixer)
    if dead == names:
        return Finding(True, f"none of the {len(names)} parameters receives a gradient", {"dead": sorted(dead)[:50]})
    return Finding(False, "parameters receive gradients", {"trainable": len(names), "with_gradient": len(names - dead)})


def finiteness(subject: Subject) -> Finding:
    """Feeds usual, large, constant and zero inputs (bf16 too if trained in it); expects finite outputs and gradients.

    Does not detect: overflow at other magnitudes and lengths, with trained parameters, or in fp16.
    """
    noise = subject.noise(*GRADIENT_SHAPE, subject.width)
    trials: dict[str, tuple[Tensor, Arithmetic]] = {
        "standard normal inputs": (noise, subject.plain),
        f"large inputs ({LARGE:g} × noise)": (LARGE * noise, subject.plain),
        "constant inputs (all one)": (torch.ones_like(noise), subject.plain),
        "constant inputs (all 100)": (torch.full_like(noise, 100.0), subject.plain),
        "zero inputs": (torch.zeros_like(noise), subject.plain),
    }
    if AUTOCAST.name in subject.settings.of_training and subject.runs_in(AUTOCAST):
        trials["bf16 inputs"] = (noise.bfloat16(), AUTOCAST)
    for name, (inputs, arithmetic) in trials.items():
        trial = partial(_non_finite, subject, inputs.to(arithmetic.dtype), arithmetic)
        if non_finite := trial():
            evidence: dict[str, JSON] = {"inputs": name, "non_finite": non_finite}
            where = f", first in {line}" if (line := line_of_non_finite(trial)) else ""
            advice = "normalise or bound what is exponentiated, and add an epsilon to what is divided by"
            return Finding(True, f"{name}: not finite in {', '.join(non_finite[:3])}{where}: {advice}", evidence)
    return Finding(False, f"finite for {len(trials)} kinds of inputs: {', '.join(trials)}")


def _non_finite(subject: Subject, inputs: Tensor, arithmetic: Arithmetic) -> list[str]:
    mixer = subject.fresh(arithmetic)
    leaf = inputs.detach().clone().requires_grad_()
    with arithmetic.active():
        output = output_of(mixer(leaf))
    if not output.isfinite().all():
        return ["the output"]
    arithmetic.backward(output.float().mean())
    gradients = {"the gradient of the input": leaf.grad}
    gradients |= {f"the gradient of {name}": parameter.grad for name, parameter in mixer.named_parameters()}
    return [name for name, gradient in gradients.items() if gradient is not None and not gradient.isfinite().all()]


def unused(subject: Subject) -> Finding:
    """Names parameters without a gradient: with randomised parameters neither, or dead as initialised.

    Zero-initialised projections are good practice, so dead means without a gradient after one step, too.
    Does not detect: parameters used only beyond 70 positions, with a mask or a cache, or later in a schedule, and
    effects that cancel out.
    """
    no_gradient = without_gradient_after_step(subject)
    if not no_gradient:
        return Finding(False, "every parameter is used")
    unused = no_gradient & without_gradient(subject, subject.mixer(State(randomised=True, training=True)))
    dead = no_gradient - unused
    groups = {"that no gradient reaches": sorted(unused), "dead as initialised": sorted(dead)}
    text = "; ".join(f"{label}: {', '.join(names[:5])}" for label, names in groups.items() if names)
    return Finding(True, f"parameters {text}", {"unused": sorted(unused), "dead_at_initialisation": sorted(dead)})


def drift(subject: Subject) -> Finding:
    """Calls one mixer several times with the same input in evaluation mode and expects the same output each time.

    Finds step counters and schedules that continue during evaluation.
    Does not detect: changes after the fourth call.
    """
    inputs = subject.noise(*SHAPE, subject.width)
    mixer = subject.mixer(State(randomised=True))
    first = subject.call(mixer, inputs).detach()
    agreement = f"{DRIFT_CALLS} calls in evaluation mode agree"
    for call in range(2, DRIFT_CALLS + 1):
        violation = (
            f"call {call} in evaluation mode differs from the first, so that scores depend on the order of rows: "
            "keep nothing from call to call there; count and average if self.training only"
        )
        finding = _compare(subject, first, subject.call(mixer, inputs), violation, agreement, call=call)
        if finding.violated:
            break
    return finding


def checkpoint(subject: Subject) -> Finding:
    """Calls the mixer in training mode, loads its state into a new mixer, and expects the same output from both.

    Finds counters, statistics and random features outside parameters and persistent buffers.
    Does not detect: state that matters only after more calls.
    """
    inputs = subject.noise(*SHAPE, subject.width)
    trained = subject.mixer(State(randomised=True, training=True))
    for _ in range(CHECKPOINT_CALLS):
        subject.call(trained, inputs)
    restored = subject.fresh(subject.exact, seed=subject.seed + 1)
    try:
        restored.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        return Finding(True, f"its checkpoint does not load into a new mixer: {error}"[:500])
    for mixer in (trained, restored):
        mixer.train(False)
    expected, actual = (subject.call(mixer, inputs) for mixer in (trained, restored))
    violation = (
        "the output changes after a checkpoint is saved and loaded: "
        "keep what it depends on in parameters and persistent buffers, and lists of modules in nn.ModuleList"
    )
    return _compare(subject, expected, actual, violation, "a checkpoint holds the whole model")


def mask(subject: Subject) -> Finding:
    """Passes an attention mask of all ones, and expects the output without a mask.

    A common mistake is a path for padded input that concatenates all rows without resetting the state between them.
    Does not detect: how padding is treated.
    """
    mixer = subject.mixer(State(randomised=True))
    if not accepts(mixer, "attention_mask"):
        return Finding(False, "forward takes no attention_mask")
    inputs = subject.noise(*SHAPE, subject.width)
    without = subject.output(inputs, State(randomised=True))
    try:
        masked = subject.call(mixer, inputs, attention_mask=torch.ones(SHAPE, dtype=torch.long))
    except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
        return Finding(True, f"forward fails with a mask of all ones: {explain(error)}"[:800])
    violation = (
        "a mask of all ones changes the output: "
        "multiply by it, and begin each of the rows laid end to end (cu_seqlens) with a new state"
    )
    return _compare(subject, without, masked, violation, "a mask of all ones changes nothing")


def decoding(subject: Subject) -> Finding:
    """Decodes a prefix, then token by token with a cache, and expects the outputs of one pass over the whole input.

    A mixer that leaves the cache empty offers no cached decoding and passes.
    Does not detect: mistakes with masks, several layers, long inputs, or after beams are reordered.
    """
    if not accepts(subject.mixer(DECODED_STATE), "past_key_values"):
        return Finding(False, "forward takes no past_key_values")
    inputs = subject.noise(2, DECODED_LENGTH, subject.width)
    try:
        decoded = _decoded(subject, inputs)
    except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
        return Finding(True, f"cached decoding fails: {explain(error)}"[:800])
    if decoded is None:
        return Finding(False, "offers no cached decoding")
    agreement = "cached decoding agrees with a single pass"
    violation = (
        "cached decoding differs from a single pass: "
        "start from all that reaches back, the state and each convolution's last inputs"
    )
    expected = subject.output(inputs, DECODED_STATE)
    return _compare(subject, expected, decoded, violation, agreement, length=DECODED_LENGTH, prefill=PREFILL)


def _decoded(subject: Subject, inputs: Tensor) -> Tensor | None:
    from fla.models.utils import Cache  # the CPU version, which `prepare_child` installs

    mixer, cache, parts = subject.mixer(DECODED_STATE), Cache(), list[Tensor]()
    starts = [0, *range(PREFILL, DECODED_LENGTH)]
    with torch.no_grad():
        for start, end in zip(starts, [*starts[1:], DECODED_LENGTH], strict=True):
            parts.append(subject.call(mixer, inputs[:, start:end], past_key_values=cache, use_cache=True))
            if not len(cache):
                return None
    return torch.cat(parts, dim=1)


def auxiliary(subject: Subject) -> Finding:
    """Looks for auxiliary losses, which training ignores: numbers in the second output, or scalar attributes.

    Does not detect: losses added through gradient hooks, or stored in globals and closures.
    """
    mixer = subject.mixer(State(training=True))
    result = subject.result(mixer, subject.noise(*SHAPE, subject.width))
    second = result[1] if isinstance(result, tuple | list) and len(result) > 1 else None
    losses = [f"second output, shape {list(tensor.shape)}" for tensor in _tensors(second) if tensor.numel() == 1]
    for path, module in mixer.named_modules():
        for name, value in vars(module).items():
            if any(tensor.numel() == 1 and tensor.grad_fn is not None for tensor in _tensors(value)):
                losses.append(f"attribute {f'{path}.{name}'.lstrip('.')}")
    if losses:
        return Finding(True, f"hidden auxiliary loss, which training ignores: {losses[0]}", {"found": losses[:20]})
    return Finding(False, "no auxiliary loss")


def _tensors(value: object, depth: int = 3) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part, depth - 1)


PROBES: Mapping[str, Callable[[Subject], Finding]] = MappingProxyType(
    {
        probe.__name__: probe
        for probe in (runs, life, finiteness, cost, unused, drift, checkpoint, mask, decoding, auxiliary)
    }
)


def run_probe(name: str, subject: Subject) -> Finding:
    """Run a probe by name. An exception is a finding."""
    try:
        return PROBES[name](subject)
    except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
        return Finding(True, explain(error)[:800], {"traceback": traceback_tail(error)})
