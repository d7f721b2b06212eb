"""Probes that the child runs on itself: it may be told what it does wrong, and what it says only counts against it.

They find slips (a parameter that does nothing, a checkpoint that holds less than the model) and have no bearing on what
a score rests on; that is measured from outside, in `structure`.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from services.engineer.checks.metering import cost
from services.engineer.checks.remote import State
from services.engineer.checks.report import JSON, ArithmeticName, Finding
from services.engineer.checks.subject import (
    ARITHMETICS,
    AUTOCAST,
    SINGLE,
    Arithmetic,
    Subject,
    accepts,
    gap_between,
    output_of,
)
from services.engineer.program import explained

GRADIENT_SHAPE = (2, 70)  # batch and length


def unreached(subject: Subject, mixer: nn.Module) -> set[str]:
    """Names of trainable parameters without any gradient of a generic loss on noise. Runs one forward and backward."""
    mixer.zero_grad(set_to_none=True)
    inputs = subject.noise(*GRADIENT_SHAPE, subject.width)
    output = subject.call(mixer, inputs)
    direction = subject.noise(*GRADIENT_SHAPE, subject.width, seed=4)
    torch.autograd.backward((output * direction.to(output.dtype) + output.pow(2)).sum())
    return {
        name
        for name, parameter in mixer.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().sum())
    }


def trainable(mixer: nn.Module) -> set[str]:
    """Names of the parameters that ask for gradients."""
    return {name for name, parameter in mixer.named_parameters() if parameter.requires_grad}


def unreached_after_a_step(subject: Subject) -> set[str]:
    """Like `unreached` at initialisation and still so after one step along the gradient's sign.

    A zero-initialised projection keeps everything before it without gradient at first, but not after one step.
    """
    mixer = subject.mixer(State(training=True))
    first = unreached(subject, mixer)
    with torch.no_grad():
        for parameter in mixer.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-2 * parameter.grad.sign())
    return first & unreached(subject, mixer) if first else first


_SPOKEN: Mapping[ArithmeticName, str] = {"single": "fp32", "autocast": "bf16 autocast"}
RUN_SHAPES = ((2, 64), (1, 1), (3, 37), (1, 130))  # (batch, length): whole chunks, a single token, odd, several chunks


def runs(subject: Subject) -> Finding:
    """Builds the mixer and runs it forward and backward at several batch sizes and lengths, as it will be trained.

    A program that casts by hand may run in one arithmetic alone: under bf16 autocast, or in fp32. It is judged by the
    scale's; where the machine that trains decides, one of the two is enough, and the message names it.
    Cannot see: failures at sizes, lengths, devices and option values that it does not try, nor those that come only
    after many calls.
    """
    names = subject.settings.of_training
    failures = {name: failure for name in names if (failure := _failure(subject, name))}
    if len(failures) == len(names):
        return failures[names[0]]
    message = "builds and runs forward and backward"
    if failures:
        fits = next(name for name in names if name not in failures)
        message += f", in {_SPOKEN[fits]} only: it cannot be trained in {_SPOKEN[next(iter(failures))]}"
    return Finding(False, message, {"precision": subject.exact.name})


def _failure(subject: Subject, name: ArithmeticName) -> Finding | None:
    for batch, length in RUN_SHAPES:
        where: dict[str, JSON] = {"batch": batch, "length": length, "precision": name}
        try:
            problem = _one_step(subject, ARITHMETICS[name], batch, length)
        except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
            message = explained(error)[:800] + _advice(subject, name, batch, length)
            return Finding(True, message, {**where, "traceback": _tail(error)})
        if problem:
            return Finding(True, problem, where)
    return None


def _advice(subject: Subject, name: ArithmeticName, batch: int, length: int) -> str:
    """What to change in a program that fails in one arithmetic of training and runs in the other."""
    other = AUTOCAST if name == SINGLE.name else SINGLE
    try:
        if _one_step(subject, other, batch, length):
            return ""
    except Exception:  # noqa: BLE001 - candidate code may raise anything; then the first error says what is wrong
        return ""
    return (
        f" (training here computes in {_SPOKEN[name]}; the program runs in {_SPOKEN[other.name]} only: name no dtype, "
        "or cast what is combined to one, as in y.to(x.dtype))"
    )


def _one_step(subject: Subject, arithmetic: Arithmetic, batch: int, length: int) -> str | None:
    mixer = arithmetic.place(subject.fresh())
    inputs = subject.noise(batch, length, subject.width).to(arithmetic.dtype).requires_grad_()
    with arithmetic.active():
        output = output_of(mixer(inputs))
    if output.shape != inputs.shape:
        return f"the output has shape {tuple(output.shape)} for an input of shape {tuple(inputs.shape)}"
    if not output.requires_grad:
        return "the output is cut off from inputs and parameters: nothing can be trained"
    torch.autograd.backward(output.float().pow(2).mean())
    return None if torch.isfinite(output).all() else "the output is not finite for standard normal inputs"


def _tail(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-2000:]


def life(subject: Subject) -> Finding:
    """Expects at least one trainable parameter to receive a gradient at initialisation.

    Cannot see: parameters whose gradients are there but useless. Single dead parameters are a warning of their own.
    """
    mixer = subject.mixer(State(training=True))
    names = trainable(mixer)
    if not names:
        return Finding(True, "the mixer has no trainable parameter", {"parameters": 0})
    dead = unreached(subject, mixer)
    if dead == names:
        return Finding(True, f"none of the {len(names)} parameters receives a gradient", {"dead": sorted(dead)[:50]})
    return Finding(False, "parameters receive gradients", {"trainable": len(names), "with_gradient": len(names - dead)})


FINITE_SHAPE = (2, 70)
LARGE = 1e3


def finiteness(subject: Subject) -> Finding:
    """Feeds large, constant and zero inputs, and bf16 ones if that is trained in; expects finite outputs and gradients.

    Parameters are as initialised: after training they may be such that it overflows, which only training shows.
    Cannot see: overflow at other magnitudes, lengths and parameters, or in fp16.
    """
    noise = subject.noise(*FINITE_SHAPE, subject.width)
    trials: dict[str, tuple[Tensor, Arithmetic]] = {
        f"large inputs ({LARGE:g} × noise)": (LARGE * noise, subject.plain),
        "constant inputs (all one)": (torch.ones_like(noise), subject.plain),
        "constant inputs (all 100)": (torch.full_like(noise, 100.0), subject.plain),
        "zero inputs": (torch.zeros_like(noise), subject.plain),
    }
    if AUTOCAST.name in subject.settings.of_training and subject.runs_in(AUTOCAST):
        trials["bf16 inputs"] = (noise.bfloat16(), AUTOCAST)
    for name, (inputs, arithmetic) in trials.items():
        broken = _broken(subject, inputs.to(arithmetic.dtype), arithmetic)
        if broken:
            evidence: dict[str, JSON] = {"inputs": name, "non_finite": broken}
            return Finding(True, f"{name}: not finite in {', '.join(broken[:3])}", evidence)
    return Finding(False, f"finite for {len(trials)} kinds of inputs: {', '.join(trials)}")


def _broken(subject: Subject, inputs: Tensor, arithmetic: Arithmetic) -> list[str]:
    mixer = arithmetic.place(subject.fresh())
    leaf = inputs.requires_grad_()
    with arithmetic.active():
        output = output_of(mixer(leaf))
    if not output.isfinite().all():
        return ["the output"]
    torch.autograd.backward(output.float().mean())
    named = {"the gradient of the input": leaf.grad}
    named |= {f"the gradient of {name}": parameter.grad for name, parameter in mixer.named_parameters()}
    return [name for name, gradient in named.items() if gradient is not None and not gradient.isfinite().all()]


def unused(subject: Subject) -> Finding:
    """Names parameters without a gradient: unused (none with randomised parameters either) or dead as initialised.

    Dead is only what one step along the gradient does not wake: a zero-initialised projection is good practice.
    Cannot see: parameters used only beyond 70 positions or with a mask or a cache, and effects that cancel out.
    """
    dead = unreached_after_a_step(subject)
    if not dead:
        return Finding(False, "every parameter is used")
    never = dead & unreached(subject, subject.mixer(State(randomised=True, training=True)))
    asleep = dead - never
    evidence: dict[str, JSON] = {"unused": sorted(never), "dead_at_initialisation": sorted(asleep)}
    said = [
        f"{what}: {', '.join(sorted(names)[:5])}"
        for what, names in (("never used", never), ("dead as initialised", asleep))
        if names
    ]
    return Finding(True, "parameters " + "; ".join(said), evidence)


DRIFT_CALLS = 4


def drift(subject: Subject) -> Finding:
    """Calls one mixer several times with the same input in evaluation mode and expects the same answer each time.

    Finds step counters and schedules that go on counting while the model is evaluated.
    Cannot see: what begins later than the fourth call, and schedules that count in training mode only, which are sound.
    """
    inputs = subject.noise(2, 65, subject.width)
    mixer = subject.mixer(State(randomised=True))
    first = subject.call(mixer, inputs).detach()
    for call in range(2, DRIFT_CALLS + 1):
        gap = gap_between(first, subject.call(mixer, inputs).detach(), subject.exact.tolerance)
        if gap.relative > subject.exact.tolerance:
            return Finding(
                True, f"call {call} in evaluation mode differs from the first", gap.evidence() | {"call": call}
            )
    return Finding(False, f"{DRIFT_CALLS} calls in evaluation mode agree")


CHECKPOINT_CALLS = 3


def checkpoint(subject: Subject) -> Finding:
    """Trains a little, loads the parameters and buffers into a new mixer, and expects the same answer from both.

    Finds counters, statistics and random features that are kept outside parameters and persistent buffers.
    Cannot see: state that only matters after more than a few calls, and the optimiser's.
    """
    inputs = subject.noise(2, 65, subject.width)
    trained = subject.mixer(State(randomised=True, training=True))
    for _ in range(CHECKPOINT_CALLS):
        subject.call(trained, inputs)
    restored = subject.exact.place(subject.fresh(seed=subject.seed + 1))
    try:
        restored.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        return Finding(True, f"its checkpoint does not load into a new mixer: {error}"[:500])
    left, right = (subject.call(mixer.eval(), inputs).detach() for mixer in (trained, restored))
    gap = gap_between(left, right, subject.exact.tolerance)
    if gap.relative > subject.exact.tolerance:
        return Finding(True, "the answer changes after a checkpoint is saved and loaded", gap.evidence())
    return Finding(False, "a checkpoint holds the whole model")


MASK_SHAPE = (2, 65)


def mask(subject: Subject) -> Finding:
    """Passes an attention mask of all ones, which must give the answer of no mask at all.

    The usual mistake is a path for padded input that lays all rows end to end and lets their states run on.
    Cannot see: how padding is treated.
    """
    mixer = subject.mixer(State(randomised=True))
    if not accepts(mixer, "attention_mask"):
        return Finding(False, "forward takes no attention_mask")
    inputs = subject.noise(*MASK_SHAPE, subject.width)
    without = subject.output(inputs, State(randomised=True))
    try:
        ones = torch.ones(MASK_SHAPE, dtype=torch.long)
        masked = subject.call(mixer, inputs, attention_mask=ones).detach()
    except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
        return Finding(True, f"forward fails with a mask of all ones: {explained(error)}"[:800])
    gap = gap_between(without, masked, subject.exact.tolerance)
    if gap.relative > subject.exact.tolerance:
        return Finding(True, "a mask of all ones changes the answer", gap.evidence())
    return Finding(False, "a mask of all ones changes nothing")


DECODED_LENGTH = 40
PREFILL = 33
DECODED_STATE = State(randomised=True)


def decoding(subject: Subject) -> Finding:
    """Reads a prefix into a cache, then token by token, and expects the outputs of the whole input in one go.

    A mixer that leaves the cache empty offers no cached decoding and passes.
    Cannot see: mistakes with masks, several layers, long inputs, or after beams are reordered.
    """
    if not accepts(subject.mixer(DECODED_STATE), "past_key_values"):
        return Finding(False, "forward takes no past_key_values")
    inputs = subject.noise(2, DECODED_LENGTH, subject.width)
    try:
        decoded = _decoded(subject, inputs)
    except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
        return Finding(True, f"cached decoding fails: {explained(error)}"[:800])
    if decoded is None:
        return Finding(False, "offers no cached decoding")
    gap = gap_between(subject.output(inputs, DECODED_STATE), decoded, subject.exact.tolerance)
    if gap.relative > subject.exact.tolerance:
        evidence = gap.evidence() | {"length": DECODED_LENGTH, "prefill": PREFILL}
        return Finding(True, "cached decoding disagrees with reading everything at once", evidence)
    return Finding(False, "cached decoding agrees with reading everything at once")


def _decoded(subject: Subject, inputs: Tensor) -> Tensor | None:
    from fla.models.utils import Cache  # our CPU version, which the guest installs before anything is loaded

    mixer, cache = subject.mixer(DECODED_STATE), Cache()
    starts = [0, *range(PREFILL, DECODED_LENGTH)]
    parts = []
    with torch.no_grad():
        for start, end in zip(starts, [*starts[1:], DECODED_LENGTH], strict=True):
            piece = inputs[:, start:end]
            parts.append(subject.call(mixer, piece, past_key_values=cache, use_cache=True))
            if not len(cache):
                return None
    return torch.cat(parts, dim=1)


AUXILIARY_SHAPE = (2, 65)
NESTED = 3  # how deep to look into containers


def auxiliary(subject: Subject) -> Finding:
    """Looks for auxiliary losses: tensors in the second output, or scalars with a gradient kept on a module.

    Training ignores them, so a program that counts on one is not the model that its author thinks it is.
    Cannot see: losses added through gradient hooks, or kept in globals and closures.
    """
    mixer = subject.mixer(State(training=True))
    answer = subject.answer(mixer, subject.noise(*AUXILIARY_SHAPE, subject.width))
    second = answer[1] if isinstance(answer, tuple | list) and len(answer) > 1 else None
    found = [f"second output, shape {list(tensor.shape)}" for tensor in _tensors(second)]
    found += [f"attribute {name}" for name in _kept(mixer)]
    if found:
        return Finding(True, f"hidden auxiliary loss, which training ignores: {found[0]}", {"found": found[:20]})
    return Finding(False, "no auxiliary loss")


def _kept(mixer: nn.Module) -> Iterator[str]:
    for path, module in mixer.named_modules():
        for name, value in vars(module).items():
            if any(tensor.numel() == 1 and tensor.grad_fn is not None for tensor in _tensors(value)):
                yield f"{path}.{name}".lstrip(".")


def _tensors(value: object, depth: int = NESTED) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part, depth - 1)


CLAIMS: Mapping[str, Callable[[Subject], Finding]] = MappingProxyType(
    {
        probe.__name__: probe
        for probe in (runs, life, finiteness, cost, unused, drift, checkpoint, mask, decoding, auxiliary)
    }
)


def claim(name: str, subject: Subject) -> Finding:
    """What a probe of this table finds; that it raises is a finding too."""
    try:
        return CLAIMS[name](subject)
    except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
        return Finding(True, f"raised {explained(error)}"[:800], {"traceback": _tail(error)})
