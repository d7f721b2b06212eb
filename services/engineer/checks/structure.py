"""Probes whose verdict is computed here, on the host, from arrays: what a score rests on.

Every layer is probed at the scale's own width, length and batch, on values that the program cannot foresee. A program
can behave well here and otherwise in training; what it gains there is measured where it is scored.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from services.engineer.checks.compare import gaps, largest_gap, number, size_of
from services.engineer.checks.remote import STATES, ProgramRaised, Remote, State
from services.engineer.checks.report import JSON, ArithmeticName, Finding

RANDOMISED, INITIAL = State(randomised=True), State()
CUTS = (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 95, 96, 127, 128, 129, 159, 191, 223, 255)
ODD_LENGTHS = (97, 160)  # no multiple of any chunk, and whole chunks of 16 and 32
LONG = 545  # programs switch to another path for long inputs
LOUD = 8.0  # every other perturbation is loud: what passes a threshold or a maximum at all passes it then
PREFIXES = (1, 2, 3, 16, 31, 33, 64, 65, 97, 130)
MANY_ROWS, SHORT = 4, 64  # rows as a multiple of the batch, as benchmarks are read, and their length
REPEATED = 1e-9  # one thread, one machine, the same operations: bitwise equality but for kernels that depend on memory
LIMITED_TOKENS = 1 << 16
"""Tokens times layers times width / 128 that are probed in all layers; wider and deeper scales are probed in fewer."""
TIMED = (512, 1024, 2048, 4096, 8192)
TIMED_SECONDS = 0.03  # longer inputs are added until one takes so long: below, constant costs hide the rest
TIMED_RATIO = 8.0  # of the processor time when the length grows fourfold: n gives 4, n² gives 16
TIMES = 3
STEEP_SECONDS = 0.1  # the same where growth looks steep: n² comes close to 16 there
ROUNDS = 4  # of measuring again what looks steep; other work that disturbs all of them alike is unlikely


async def parameters(program: Remote) -> Finding:
    """Counts the parameters of all layers on the arrays that come back, and compares with the baseline's."""
    settings = program.settings
    mixers = [await program.at(layer).parameters() for layer in range(settings.layers)]
    total = sum(mixers) + settings.surrounding_parameters
    evidence: dict[str, JSON] = {"parameters": total, "per_mixer": mixers[0]}
    if len(set(mixers)) > 1:
        evidence["by_layer"] = mixers
    if settings.baseline_parameters is None:
        return Finding(False, f"{total:,} parameters", evidence)
    ratio = total / settings.baseline_parameters
    evidence |= {"baseline": settings.baseline_parameters, "ratio": round(ratio, 4), "limit": settings.parameter_limit}
    return Finding(ratio > settings.parameter_limit, f"{total:,} parameters, {ratio:.2f} × the baseline's", evidence)


async def repeatability(program: Remote) -> Finding:
    """Builds and runs each layer's mixer twice under one seed and compares outputs, and gradients in the first layer.

    Cannot see: differences between processes, machines, devices and thread counts, or randomness that begins only
    after many calls.
    """
    inputs = program.noise(2, 65)
    direction = program.noise(2, 65, stream=5)
    for state in (State(training=True), INITIAL):
        first, second = [await program.gradient(inputs, direction, state) for _ in range(2)]
        gap = largest_gap(first, second, REPEATED)
        if gap.relative > REPEATED:
            return Finding(True, f"two runs under one seed differ in the gradient ({state})", gap.evidence())
    for layer in probed_layers(program):
        mixer = program.at(layer)
        for state in (State(training=True), INITIAL):
            gap = largest_gap(await mixer.output(inputs, state), await mixer.output(inputs, state), REPEATED)
            if gap.relative > REPEATED:
                evidence = gap.evidence() | {"layer": layer}
                return Finding(True, f"two runs under one seed differ in the output ({state})", evidence)
    return Finding(False, "two runs under one seed agree")


async def batch(program: Remote) -> Finding:
    """Replaces all rows but one by other noise, and removes them, and expects that row's output unchanged.

    At the scale's batch and length, and at the larger batches of shorter rows in which benchmarks are read.
    """
    settings = program.settings
    rows, length = max(2, settings.batch), _probed_length(program)
    shapes = [(rows, length, RANDOMISED), (MANY_ROWS * rows, min(SHORT, length), RANDOMISED)]
    shapes += [(3, ODD_LENGTHS[0], state) for state in STATES[1:]]
    for rows_, length_, state in shapes:
        finding = await _coupled(program, rows_, length_, state)
        if finding:
            return finding
    return Finding(False, "rows of a batch are independent")


async def causality(program: Remote) -> Finding:
    """Replaces everything from a position on by other noise, and expects all earlier outputs unchanged.

    Rows are cut at different positions: the first ones, at and beside chunk edges, and at random. Every layer at the
    scale's batch and length; the first also at odd and long inputs, in all states, in the arithmetic of training, and
    by gradients of earlier outputs by later inputs, which show leaks too small to measure otherwise.
    Cannot see: leaks that need particular values, or many calls to begin.
    """
    rows, length = max(4, program.settings.batch), _probed_length(program)
    for place, state in enumerate(STATES):
        at, cut = (length, rows) if state.randomised else (ODD_LENGTHS[place % 2], 6)
        finding = await _perturbed(program, state, cut, at, place)
        if finding:
            return finding
    trained = await supported(program, program.settings.of_training)
    finding = (
        await _perturbed(program, RANDOMISED, 2, LONG, 5)
        or await _differentiated(program, RANDOMISED)
        or await _differentiated(program, INITIAL)
        or await _perturbed(trained, RANDOMISED, rows, length, 6)
    )
    for layer in probed_layers(program)[1:]:
        finding = finding or await _perturbed(program.at(layer), RANDOMISED, rows, length, 7 + layer)
    return finding or Finding(False, "no output depends on a later input")


async def prefix(program: Remote) -> Finding:
    """Feeds prefixes of an input alone and expects the same outputs as within the whole.

    Finds positions divided by the length, gates on the length and other paths for short inputs, which make training,
    scoring and generation three different models. In evaluation mode, at initialisation and with randomised parameters.
    Cannot see: paths that begin beyond 600 positions, and dependence on the length in training mode only.
    """
    length = _probed_length(program)
    wholes = [
        (program, RANDOMISED, length, (*(part for part in PREFIXES if part < length), length - 1)),
        (program, INITIAL, 160, (1, 3, 32, 63, 128)),
        (program, RANDOMISED, 600, (255, 256, 513)),
        *((program.at(layer), RANDOMISED, length, (5, length // 2)) for layer in probed_layers(program)[1:]),
    ]
    for mixer, state, whole, parts in wholes:
        inputs = mixer.noise(1, whole, stream=11)
        output = await mixer.output(inputs, state)
        for part in parts:
            gap = largest_gap(output[:, :part], await mixer.output(inputs[:, :part], state), mixer.tolerance)
            if gap.relative > mixer.tolerance:
                message = f"the first {part} outputs differ when the input ends there instead of at {whole} ({state})"
                evidence = {**gap.evidence(), "prefix": part, "length": whole, "layer": mixer.layer}
                return Finding(True, message, evidence)
    return Finding(False, "the output for a prefix is the prefix of the output")


async def measured_cost(program: Remote, processor_seconds: Callable[[], float]) -> Finding:
    """Measures the child's processor time at doubling lengths in every layer, which backs the counted operations.

    What is computed outside of torch, or in another layer than the counted one, shows here. A cache that overflows
    makes one doubling steep in an honest program, so two are taken together. Other work on the machine lengthens
    processor time too, so what looks steep is measured again, all lengths side by side, and must look steep every time.
    Cannot see: growth that begins beyond the last length, or that is hidden by other work in one of the rounds.
    """
    single = await supported(program, ("single", "autocast"))
    for layer in probed_layers(program):
        mixer, seconds = single.at(layer), dict[int, float]()
        for length in TIMED:
            seconds[length] = await _processor_time(mixer, length, processor_seconds)
            ratio = _growth(seconds)
            if length >= TIMED[2] and seconds[length] > (STEEP_SECONDS if ratio > TIMED_RATIO else TIMED_SECONDS):
                break
        for _ in range(ROUNDS):
            if ratio <= TIMED_RATIO:
                break
            again = {length: await _processor_time(mixer, length, processor_seconds) for length in list(seconds)[-3:]}
            seconds |= {length: min(seconds[length], value) for length, value in again.items()}
            ratio = min(ratio, _growth(seconds), _growth(again))
        if ratio > TIMED_RATIO:
            evidence: dict[str, JSON] = {
                "layer": layer,
                "lengths": list(seconds),
                "seconds": [number(value) for value in seconds.values()],
                "exponent": number(math.log2(ratio) / 2),
            }
            return Finding(True, f"processor time grows {ratio:.1f} × when the length grows 4 ×", evidence)
    return Finding(False, "processor time grows in proportion to the length")


def _growth(seconds: Mapping[int, float]) -> float:
    """The time at the last length as a multiple of that at a quarter of it; 0 where that was not measured."""
    last = max(seconds)
    return seconds[last] / max(seconds.get(last // 4, math.inf), 1e-9)


async def _processor_time(mixer: Remote, length: int, processor_seconds: Callable[[], float]) -> float:
    """The least of a few forwards' processor time, with what it takes to send and receive."""
    inputs, least = mixer.noise(1, length, stream=13), math.inf
    for _ in range(TIMES):
        began = processor_seconds()
        await mixer.output(inputs, INITIAL)
        least = min(least, processor_seconds() - began)
    return least


STRUCTURE: Mapping[str, Callable[[Remote], Awaitable[Finding]]] = MappingProxyType(
    {probe.__name__: probe for probe in (parameters, repeatability, batch, causality, prefix)}
)


async def supported(program: Remote, ladder: Sequence[ArithmeticName] = ("double", "single", "autocast")) -> Remote:
    """The program in the most precise arithmetic in which it runs. Raises what it raises in the first if in none."""
    first: ProgramRaised | None = None
    for name in ladder:
        trial = program.computing(name)
        try:
            if np.isfinite(await trial.output(trial.noise(1, 65), INITIAL)).any():
                return trial
        except ProgramRaised as raised:
            first = first or raised
    raise first or ProgramRaised("the output is not finite in any precision", "")


def probed_layers(program: Remote) -> list[int]:
    """All layers, or as many as the limit on tokens allows: the first, the last, and others by chance."""
    settings = program.settings
    cost = max(1, settings.batch * settings.length * settings.width // 128)
    count = min(settings.layers, max(2, LIMITED_TOKENS // cost))
    others = np.random.default_rng([program.seed, 17]).permutation(np.arange(1, max(1, settings.layers - 1)))
    chosen = [0, settings.layers - 1, *(int(layer) for layer in others[: max(0, count - 2)])]
    return list(dict.fromkeys(chosen))[:count]


def _probed_length(program: Remote) -> int:
    """The scale's, at least enough for the cuts to lie within."""
    return max(program.settings.length, 33)


async def _coupled(program: Remote, rows: int, length: int, state: State) -> Finding | None:
    inputs = program.noise(rows, length)
    row = int(np.random.default_rng([program.seed, rows, length]).integers(rows))
    alone = slice(row, row + 1)
    others = program.noise(rows, length, stream=2) * np.where(np.arange(rows) % 2, 0.2, 5.0)[:, None, None]
    others[alone] = inputs[alone]
    answers = {"the other rows change": (await program.output(others, state))[alone]}
    if not state.training:  # noise drawn in training has the shape of the batch
        answers["the other rows are removed"] = await program.output(inputs[alone], state)
    reference = (await program.reference(rows, length, state))[alone]
    for change, answer in answers.items():
        gap = largest_gap(reference, answer, program.tolerance)
        if gap.relative > program.tolerance:
            evidence = gap.evidence() | {"batch": rows, "length": length}
            return Finding(True, f"a row's output changes when {change} ({state})", evidence)
    return None


def cuts_for(program: Remote, rows: int, length: int, stream: int) -> list[int]:
    """Where each row is cut: usual places by turns, every other one at random."""
    usual = [cut for cut in CUTS if cut < length]
    random = np.random.default_rng([program.seed, stream, length])
    start = int(random.integers(len(usual)))
    return [
        usual[(start + 5 * row) % len(usual)] if row % 2 else int(random.integers(1, length)) for row in range(rows)
    ]


async def _perturbed(program: Remote, state: State, rows: int, length: int, stream: int) -> Finding | None:
    same = program.noise(rows, length)
    inputs, future = same.copy(), program.noise(rows, length, stream=40 + stream)
    cuts = cuts_for(program, rows, length, stream)
    for row, cut in enumerate(cuts):
        inputs[row, cut:] = future[row, cut:] * (LOUD if (row + stream) // 2 % 2 else 1.0)
    reference, output = await program.reference(rows, length, state), await program.output(inputs, state)
    for row, cut in enumerate(cuts):
        before = reference[row, :cut]
        size = max(size_of(before), 1e-6 * size_of(reference[row]))
        leak = gaps(before, output[row, :cut]).max(axis=-1) / size
        if not float(leak.max()) <= program.tolerance:
            return _leak("changes with", leak, int(leak.argmax()), cut, program, state, length)
    return None


async def _differentiated(program: Remote, state: State) -> Finding | None:
    length = ODD_LENGTHS[0]
    cuts = [cut for cut in CUTS if cut < length][1::2]
    inputs = np.repeat(program.noise(1, length), len(cuts), axis=0)
    past = np.arange(length) < np.array(cuts)[:, None]
    direction = np.where(past[:, :, None], program.noise(1, length, stream=3), 0.0)
    gradient = await program.gradient(inputs, direction, state)
    for row, cut in enumerate(cuts):
        future = np.abs(np.nan_to_num(gradient[row, cut:], posinf=0.0, neginf=0.0)).max(axis=-1)
        leak = future / size_of(gradient[row, :cut])
        if float(leak.max()) > program.tolerance:
            return _leak("has a gradient from", leak, cut + int(leak.argmax()), cut, program, state, length)
    return None


def _leak(how: str, leak: np.ndarray, position: int, cut: int, program: Remote, state: State, length: int) -> Finding:
    evidence: dict[str, JSON] = {
        "length": length,
        "layer": program.layer,
        "first_future_position": cut,
        "position": position,
        "positions_affected": int((leak > program.tolerance).sum()),
        "relative_difference": number(float(leak.max())),
        "parameters": "randomised" if state.randomised else "initial",
        "mode": "training" if state.training else "evaluation",
    }
    return Finding(True, f"an output before position {cut} {how} the input from {cut} on ({state})", evidence)
