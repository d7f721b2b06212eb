"""Probes that the host decides from arrays: the properties that scores depend on.

Layers are probed at the scale's own width and length, on inputs that the program cannot predict: all layers and rows of
a small scale, some of a large one, since checks run on the CPU. Scoring detects programs that differ in training.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import numpy as np

from services.engineer.checks.compare import Values, gaps, largest_gap, number, size_of
from services.engineer.checks.remote import STATES, TENSORS, ProgramRaised, Remote, State
from services.engineer.checks.report import JSON, CheckSettings, Finding

RANDOMISED, INITIAL = State(randomised=True), State()
CUTS = (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 95, 96, 127, 128, 129, 159, 191, 223, 255)
ODD_LENGTHS = (97, 160)  # no multiple of any chunk, and whole chunks of 16 and 32
LONG = 600  # some programs use another path for long inputs
PREFIXES = (1, 2, 3, 16, 31, 33, 64, 65, 97, 130)
_REPETITIONS = (  # in evaluation mode, in training mode
    ("with one input", "draw random numbers if self.training only; create layers, and buffers of noise, in __init__"),
    ("under one seed", "set what torch.empty creates, use torch's default generator, keep no state outside of self"),
)
LARGEST = 5  # tensors that a refusal for too many parameters names
ROWS_FACTOR, SHORT = 4, 64  # benchmarks are read in larger batches of shorter rows
GROWTH, EARLY = 1e3, 16  # of outputs beyond the first ones, above which a rounding of late ones may look like a leak
_ROUNDING = "; if outputs grow exponentially, an FFT's rounding looks alike: bound decays, as in exp(-softplus(a) * t)"
REPEATABILITY_TOLERANCE = 1e-9  # equality but for kernels whose order of operations depends on memory alignment
TOKEN_LIMIT, FEWEST_LAYERS, FEWEST_ROWS = 1 << 16, 2, 4
"""Limit on tokens × layers × width / 128: where it is exceeded, fewer layers are probed, then fewer rows of two."""
TIMED_LENGTHS = (512, 1024, 2048, 4096, 8192)
TIMED_SECONDS = 0.03  # lengths grow until one takes so long: shorter times are dominated by constant costs
TIMED_RATIO = 8.0  # limit on the ratio of CPU times when the length grows fourfold: n gives 4, n² gives 16
REPEATS = 2
LINEAR_RATIO = 4.5  # up to here growth counts as linear, with noise
STEEP_SECONDS = 0.3  # above LINEAR_RATIO lengths grow until one takes so long: n² comes close to 16 then
LEAST_SECONDS = 0.02  # growth to a shorter time is noise, and one operation on all pairs of 8192 positions takes longer
ROUNDS = 3  # repetitions of a steep measurement, which other work on the machine may have disturbed


async def parameters(program: Remote) -> Finding:
    """Counts the parameters of all layers and compares the total with the baseline's."""
    settings = program.settings
    tensors = [await program.at(layer).parameters() for layer in range(settings.layers)]
    by_layer = [sum(math.prod(shape) for _, shape in of_layer) for of_layer in tensors]
    total = sum(by_layer) + settings.surrounding_parameters
    evidence: dict[str, JSON] = {"parameters": total, "per_mixer": by_layer[0]}
    if len(set(by_layer)) > 1:
        evidence["by_layer"] = by_layer
    if sum(map(len, tensors)) > TENSORS:
        return Finding(True, f"more than {TENSORS:,} parameter tensors: stack those of experts or heads", evidence)
    if settings.baseline_parameters is None:
        return Finding(False, f"{total:,} parameters", evidence)
    ratio = total / settings.baseline_parameters
    evidence |= {"baseline": settings.baseline_parameters, "ratio": round(ratio, 4), "limit": settings.parameter_limit}
    message = f"{total:,} parameters, {ratio:.2f} × the baseline's, of at most {settings.parameter_limit:g} ×"
    if ratio <= settings.parameter_limit:
        return Finding(False, message, evidence)
    layer = by_layer.index(max(by_layer))
    largest = sorted(tensors[layer], key=lambda tensor: math.prod(tensor[1]), reverse=True)[:LARGEST]
    listed = ", ".join(f"{name[:80]} {list(shape)}" for name, shape in largest)
    return Finding(True, f"{message}; the largest of layer {layer}: {listed}", evidence)


async def repeatability(program: Remote) -> Finding:
    """Builds and runs each layer's mixer twice; compares outputs, and gradients in the first layer.

    With one seed in training mode, and with two in evaluation mode, where no random numbers must be drawn.
    Does not detect: differences between processes, machines, devices and thread counts, or after many calls.
    """
    inputs, direction = program.noise(2, 65), program.noise(2, 65, stream=5)
    for layer in probed_layers(program):
        first, other = program.at(layer), replace(program.at(layer), seed=program.seed + 1)
        for state, second in ((State(training=True), first), (INITIAL, other)):
            runs = [
                await mixer.output_and_gradient(inputs, None if layer else direction, state)
                for mixer in (first, second)
            ]
            for what, (left, right) in zip(("output", "gradient"), zip(*runs, strict=True), strict=True):
                gap = largest_gap(left, right, REPEATABILITY_TOLERANCE)
                if gap.relative > REPEATABILITY_TOLERANCE:
                    evidence, (seeds, advice) = gap.evidence() | {"layer": layer}, _REPETITIONS[state.training]
                    place = await first.place(inputs, None, state)
                    return Finding(True, f"two runs {seeds} differ in the {what} ({state}){place}: {advice}", evidence)
    return Finding(False, "two runs agree")


async def batch(program: Remote) -> Finding:
    """Removes or changes all rows but one, and expects that row's output unchanged.

    At the scale's batch and length, and in the larger batches of shorter rows of benchmarks.
    """
    rows, length = probed_shape(program.settings)
    shapes = [(rows, length, RANDOMISED), (ROWS_FACTOR * rows, min(SHORT, length), RANDOMISED)]
    shapes += [(3, ODD_LENGTHS[0], state) for state in STATES[1:]]
    for shape in shapes:
        if finding := await _row_dependence(program, *shape):
            return finding
    return Finding(False, "rows of a batch are independent")


async def causality(program: Remote) -> Finding:
    """Replaces all inputs from a position on by other noise, and expects all earlier outputs unchanged.

    Rows are cut at different positions: the first ones, at and beside chunk boundaries, and at random. Every layer is
    tested at the scale's batch and length, and all of them stacked in the arithmetic of training, since one layer could
    pass information to another. The first is also tested at odd and long inputs, in all states, and by gradients of
    earlier outputs with respect to later inputs, which show smaller leaks.
    Does not detect: leaks that need particular values or many calls, or that exist in training mode only and at no
    length but the scale's; these harm the training itself.
    """
    rows, length = probed_shape(program.settings)
    layers, trained = sorted(probed_layers(program)), await program.supported(program.settings.of_training)
    finding = await _perturbation_leak(program, RANDOMISED, rows, length)
    for stream, state in enumerate(STATES[1:], start=1):
        finding = finding or await _perturbation_leak(program, state, 6, ODD_LENGTHS[stream % 2], stream)
    finding = (
        finding
        or await _perturbation_leak(program, RANDOMISED, 2, LONG, 5)
        or await _gradient_leak(program, RANDOMISED, 2)
        or await _gradient_leak(program, INITIAL, 4)
        or await _perturbation_leak(trained.at(*layers), RANDOMISED, rows, length, 6)
    )
    for layer in layers[1:]:
        finding = finding or await _perturbation_leak(program.at(layer), RANDOMISED, rows, length, 7 + layer)
    return finding or Finding(False, "no output depends on a later input")


async def prefix(program: Remote) -> Finding:
    """Feeds prefixes of an input and expects the same outputs as for the whole input.

    Finds positions divided by the length, gates on the length and separate paths for short inputs, which make
    training, scoring and generation differ. In evaluation mode, at initialisation and with randomised parameters.
    Does not detect: paths that begin beyond 600 positions, and dependence on the length in training mode only.
    """
    rows, length = probed_shape(program.settings)
    cases = [
        (program, RANDOMISED, rows, length, (*(part for part in PREFIXES if part < length), length - 1)),
        (program, INITIAL, 6, ODD_LENGTHS[0], (1, 3, 32, 63)),
        (program, RANDOMISED, 2, LONG, (255, 256, 513)),
        *((program.at(layer), RANDOMISED, rows, length, (5, length // 2)) for layer in probed_layers(program)[1:]),
    ]
    for mixer, state, count, total, parts in cases:
        inputs, output = mixer.noise(count, total)[:1], (await mixer.reference(count, total, state))[:1]
        for part in parts:
            gap = largest_gap(output[:, :part], await mixer.output(inputs[:, :part], state), mixer.tolerance)
            if gap.relative > mixer.tolerance:
                place = await mixer.place(inputs, part, state)
                message = f"the first {part} outputs differ when the input ends there instead of at {total} ({state})"
                message += f"{place}: compute nothing from the length of the input, such as position / length"
                return Finding(True, message, {**gap.evidence(), "prefix": part, "length": total, "layer": mixer.layer})
    return Finding(False, "the output for a prefix is the prefix of the output")


async def measured_cost(program: Remote, processor_seconds: Callable[[], float]) -> Finding:
    """Measures the child's CPU time at doubling lengths in every layer.

    Finds work outside torch, or only at the scale's sizes, which `metering` does not count. Exceeding the CPU
    cache makes one doubling steep in honest programs, so two doublings are taken together. Other work on the machine
    also increases CPU time, so a steep result is measured again, both lengths together, and must stay steep.
    Does not detect: growth that begins beyond the last length, or that other work hides in one of the rounds.
    """
    single = await program.supported(("single", "autocast"))
    for layer in probed_layers(program):
        measure = partial(_processor_time, single.at(layer), processor_seconds)
        if steep := await steep_growth(measure, TIMED_LENGTHS, LEAST_SECONDS, TIMED_SECONDS, STEEP_SECONDS):
            return Finding(True, steep[0], {"layer": layer, **steep[1]})
    return Finding(False, "processor time grows in proportion to the length")


async def steep_growth(
    measure: Callable[[int], Awaitable[float | None]],
    lengths: Sequence[int],
    least: float,
    enough: float,
    at_steep: float,
) -> tuple[str, dict[str, JSON]] | None:
    """A message and evidence if CPU time grows more than TIMED_RATIO times when the length grows fourfold.

    `measure` gives the time at a length, or None where there is none. At least three of the doubling `lengths` are
    measured, and further ones until one takes `enough` seconds or, where growth looks steep, `at_steep`. Growth to
    fewer than `least` seconds is not judged.
    """
    seconds, ratio = dict[int, float](), 0.0
    for length in lengths:
        if (value := await measure(length)) is None:
            break
        seconds[length] = value
        ratio = _growth(seconds)
        if length >= lengths[2] and value > (at_steep if ratio > LINEAR_RATIO else enough):
            break
    for _ in range(ROUNDS):
        if ratio <= TIMED_RATIO or seconds[max(seconds)] < least:
            return None
        again = {length: await measure(length) for length in (max(seconds), max(seconds) // 4)}
        repeated = {length: value for length, value in again.items() if value is not None}
        if len(repeated) < len(again):
            break  # a greater length has ended the child
        seconds |= {length: min(seconds[length], value) for length, value in repeated.items()}
        ratio = min(ratio, _growth(seconds), _growth(repeated))
    if ratio <= TIMED_RATIO or seconds[max(seconds)] < least:
        return None
    values = [number(value) for value in seconds.values()]
    exponent = number(math.log2(ratio) / 2)
    evidence: dict[str, JSON] = {"lengths": list(seconds), "seconds": values, "exponent": exponent}
    return f"processor time grows {ratio:.1f} × when the length grows 4 ×", evidence


def _growth(seconds: Mapping[int, float]) -> float:
    """The time at the last length divided by that at a quarter of it; 0 if one of them was not measured."""
    last = max(seconds, default=0)
    return seconds[last] / max(seconds.get(last // 4, math.inf), 1e-9) if seconds else 0.0


async def _processor_time(mixer: Remote, processor_seconds: Callable[[], float], length: int) -> float | None:
    """The least CPU time of a few forwards, including that of their messages; None if the program raises."""
    inputs, fastest = mixer.noise(1, length, stream=13), math.inf
    for _ in range(REPEATS):
        start = processor_seconds()
        try:
            await mixer.output(inputs, RANDOMISED)
        except ProgramRaised:
            if length <= TIMED_LENGTHS[2]:
                raise
            return None  # tables for a greatest length are no cost
        fastest = min(fastest, processor_seconds() - start)
    return fastest


HOST_PROBES: Mapping[str, Callable[[Remote], Awaitable[Finding]]] = MappingProxyType(
    {probe.__name__: probe for probe in (parameters, repeatability, batch, causality, prefix)}
)


def probed_layers(program: Remote) -> list[int]:
    """All layers, or as many as TOKEN_LIMIT allows: the first, the last, and random others."""
    settings = program.settings
    most = TOKEN_LIMIT * 128 // (math.prod(probed_shape(settings)) * settings.width)
    count = min(settings.layers, max(FEWEST_LAYERS, most))
    shuffled = np.random.default_rng([program.seed, 17]).permutation(np.arange(1, max(1, settings.layers - 1)))
    chosen = [0, settings.layers - 1, *(int(layer) for layer in shuffled[: max(0, count - 2)])]
    return list(dict.fromkeys(chosen))[:count]


def probed_shape(settings: CheckSettings) -> tuple[int, int]:
    """Rows and length: the scale's, but large enough for some cuts, and only as many rows as TOKEN_LIMIT allows."""
    length = max(33, settings.length)
    return max(FEWEST_ROWS, min(settings.batch, TOKEN_LIMIT * 64 // (length * settings.width))), length


def _fixed_row(program: Remote, rows: int, length: int) -> int:
    """The row that stays the same while the others change."""
    return int(np.random.default_rng([program.seed, rows, length]).integers(rows))


async def _row_dependence(program: Remote, rows: int, length: int, state: State) -> Finding | None:
    inputs, reference = program.noise(rows, length), await program.reference(rows, length, state)
    fixed = _fixed_row(program, rows, length)
    outputs: list[tuple[str, int, Values]] = []
    if state.training:  # noise drawn in training has the shape of the batch, so no row can be removed
        changed = program.noise(rows, length, stream=2) * np.where(np.arange(rows) % 2, 0.2, 5.0)[:, None, None]
        changed[fixed] = inputs[fixed]
        outputs.append(("the other rows change", fixed, (await program.output(changed, state))[fixed]))
    else:
        if (rows, length) == probed_shape(program.settings):  # causality uses the same cached output
            changed = await program.output_with_other_ends(length, state, _cuts(program, rows, length), 0)
            outputs.append(("the other rows change", fixed, changed[fixed]))
        for row in {fixed, (fixed + rows // 3) % rows, (fixed + 2 * rows // 3) % rows} if rows > 8 else {fixed}:
            single = await program.output(inputs[row : row + 1], state)
            outputs.append(("the other rows are removed", row, single[0]))
    for change, row, output in outputs:
        gap = largest_gap(reference[row], output, program.tolerance)
        if gap.relative > program.tolerance:
            evidence = gap.evidence() | {"batch": rows, "length": length}
            message = f"a row's output changes when {change} ({state}): inputs are [batch, length, width]"
            message += " (torch's layers: batch_first=True); take no mean over the batch, and sort with stable=True"
            message += "" if state.training else "; draw noise if self.training only"
            return Finding(True, message, evidence)
    return None


def _cuts(program: Remote, rows: int, length: int, stream: int = 0) -> list[int]:
    """The position of each row's cut: alternately one of CUTS and a random one. In stream 0, one row is not cut."""
    candidates = [cut for cut in CUTS if cut < length]
    random = np.random.default_rng([program.seed, stream, length])
    start = int(random.integers(len(candidates)))
    cuts = [
        candidates[(start + 5 * row) % len(candidates)] if row % 2 else int(random.integers(1, length))
        for row in range(rows)
    ]
    if stream == 0:
        cuts[_fixed_row(program, rows, length)] = length
    return cuts


async def _perturbation_leak(program: Remote, state: State, rows: int, length: int, stream: int = 0) -> Finding | None:
    cuts = _cuts(program, rows, length, stream)
    reference = await program.reference(rows, length, state)
    if not np.isfinite(reference).all():
        return Finding(True, f"the output is not finite ({state}), so that no leak would show", {"length": length})
    output = await program.output_with_other_ends(length, state, cuts, stream)
    for row, cut in enumerate(cuts):
        before = reference[row, :cut]
        size = max(size_of(before), 1e-6 * size_of(reference[row]))
        leak = gaps(before, output[row, :cut]).max(axis=-1) / size
        if not float(leak.max()) <= program.tolerance:
            place = await program.place(program.noise(rows, length)[row : row + 1], cut, state)
            return _leak("changes with", leak, int(leak.argmax()), cut, program, state, reference[row], place)
    return None


async def _gradient_leak(program: Remote, state: State, every: int) -> Finding | None:
    length = ODD_LENGTHS[0]
    cuts = [cut for cut in CUTS if cut < length][1::every]
    inputs = np.repeat(program.noise(1, length), len(cuts), axis=0)
    past = np.arange(length) < np.array(cuts)[:, None]
    direction = np.where(past[:, :, None], program.noise(1, length, stream=3), 0.0)
    output, gradient = await program.output_and_gradient(inputs, direction, state)
    for row, cut in enumerate(cuts):
        future = np.abs(np.nan_to_num(gradient[row, cut:], posinf=0.0, neginf=0.0)).max(axis=-1)
        leak = future / size_of(gradient[row, :cut])
        if float(leak.max()) > program.tolerance:
            return _leak("has a gradient from", leak, cut + int(leak.argmax()), cut, program, state, output[row])
    return None


def _leak(
    how: str, leak: np.ndarray, position: int, cut: int, program: Remote, state: State, row: Values, place: str = ""
) -> Finding:
    evidence: dict[str, JSON] = {
        "length": len(row),
        "layer": program.layer,
        "first_future_position": cut,
        "position": position,
        "positions_affected": int((leak > program.tolerance).sum()),
        "relative_difference": number(float(leak.max())),
        "parameters": "randomised" if state.randomised else "initial",
        "mode": state.mode,
    }
    message = (
        f"an output before position {cut} {how} the input from {cut} on ({state}){place}: "
        "norms, pooling, softmax and convolutions along the length must read earlier positions only"
    )
    message += ", and so must the backward of an autograd.Function" if "gradient" in how else ""
    message += _ROUNDING if size_of(row) > GROWTH * size_of(row[:EARLY]) else ""
    return Finding(True, message, evidence)
