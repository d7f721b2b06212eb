"""Probes whose verdict is computed here, on the host, from arrays: what a score rests on.

Every layer is probed at the scale's own width, length and batch, on values that the program cannot foresee. A program
can behave well here and otherwise in training; what it gains there is measured where it is scored.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from services.engineer.checks.compare import Values, gaps, largest_gap, number, size_of
from services.engineer.checks.remote import STATES, ProgramRaised, Remote, State
from services.engineer.checks.report import JSON, ArithmeticName, Finding

RANDOMISED, INITIAL = State(randomised=True), State()
CUTS = (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 95, 96, 127, 128, 129, 159, 191, 223, 255)
ODD_LENGTHS = (97, 160)  # no multiple of any chunk, and whole chunks of 16 and 32
LONG = 600  # programs switch to another path for long inputs
PREFIXES = (1, 2, 3, 16, 31, 33, 64, 65, 97, 130)
MANY_ROWS, SHORT = 4, 64  # rows as a multiple of the batch, as benchmarks are read, and their length
REPEATED = 1e-9  # one thread, one machine, the same operations: bitwise equality but for kernels that depend on memory
LIMITED_TOKENS = 1 << 16
"""Tokens times layers times width / 128 that are probed in all layers; wider and deeper scales are probed in fewer."""
TIMED = (512, 1024, 2048, 4096, 8192)
TIMED_SECONDS = 0.03  # longer inputs are added until one takes so long: below, constant costs hide the rest
TIMED_RATIO = 8.0  # of the processor time when the length grows fourfold: n gives 4, n² gives 16
TIMES = 2
LINEAR_RATIO = 4.5  # up to here growth is that of n, with noise
STEEP_SECONDS = 0.3  # longer inputs are added until here where it is more: n² comes close to 16 then
ROUNDS = 3  # of measuring again what looks steep; other work that disturbs all of them alike is unlikely


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
    inputs, direction = program.noise(2, 65), program.noise(2, 65, stream=5)
    for layer in probed_layers(program):
        mixer = program.at(layer)
        for state in (State(training=True), INITIAL):
            pairs = [await mixer.differentiated(inputs, None if layer else direction, state) for _ in range(2)]
            for what, (first, second) in zip(("output", "gradient"), zip(*pairs, strict=True), strict=True):
                gap = largest_gap(first, second, REPEATED)
                if gap.relative > REPEATED:
                    evidence = gap.evidence() | {"layer": layer}
                    return Finding(True, f"two runs under one seed differ in the {what} ({state})", evidence)
    return Finding(False, "two runs under one seed agree")


async def batch(program: Remote) -> Finding:
    """Removes all rows but one, or changes them, and expects that row's output unchanged.

    At the scale's batch and length, and at the larger batches of shorter rows in which benchmarks are read.
    """
    rows, length = _probed_shape(program)
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
    scale's batch and length, and all of them stacked in the arithmetic of training, where one could tell another what
    is to come; the first also at odd and long inputs, in all states, and by gradients of earlier outputs by later
    inputs, which show leaks too small to measure otherwise.
    Cannot see: leaks that need particular values, or many calls to begin, or that are there in training mode only and
    at no length but the scale's, which spoil what is learnt.
    """
    rows, length = _probed_shape(program)
    layers, trained = sorted(probed_layers(program)), await supported(program, program.settings.of_training)
    finding = await _perturbed(program, RANDOMISED, rows, length)
    for place, state in enumerate(STATES[1:], start=1):
        finding = finding or await _perturbed(program, state, 6, ODD_LENGTHS[place % 2], place)
    finding = (
        finding
        or await _perturbed(program, RANDOMISED, 2, LONG, 5)
        or await _differentiated(program, RANDOMISED, 2)
        or await _differentiated(program, INITIAL, 4)
        or await _perturbed(trained.at(*layers), RANDOMISED, rows, length, 6)
    )
    for layer in layers[1:]:
        finding = finding or await _perturbed(program.at(layer), RANDOMISED, rows, length, 7 + layer)
    return finding or Finding(False, "no output depends on a later input")


async def prefix(program: Remote) -> Finding:
    """Feeds prefixes of an input alone and expects the same outputs as within the whole.

    Finds positions divided by the length, gates on the length and other paths for short inputs, which make training,
    scoring and generation three different models. In evaluation mode, at initialisation and with randomised parameters.
    Cannot see: paths that begin beyond 600 positions, and dependence on the length in training mode only.
    """
    rows, length = _probed_shape(program)
    wholes = [
        (program, RANDOMISED, rows, length, (*(part for part in PREFIXES if part < length), length - 1)),
        (program, INITIAL, 6, ODD_LENGTHS[0], (1, 3, 32, 63)),
        (program, RANDOMISED, 2, LONG, (255, 256, 513)),
        *((program.at(layer), RANDOMISED, rows, length, (5, length // 2)) for layer in probed_layers(program)[1:]),
    ]
    for mixer, state, count, whole, parts in wholes:
        inputs, output = mixer.noise(count, whole)[:1], (await mixer.reference(count, whole, state))[:1]
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
    processor time too, so what looks steep is measured again, both lengths together, and must look steep every time.
    Cannot see: growth that begins beyond the last length, or that is hidden by other work in one of the rounds.
    """
    single = await supported(program, ("single", "autocast"))
    for layer in probed_layers(program):
        mixer, seconds, ratio = single.at(layer), dict[int, float](), 0.0
        for length in TIMED:
            seconds[length] = await _processor_time(mixer, length, processor_seconds)
            ratio = _growth(seconds)
            if length >= TIMED[2] and seconds[length] > (STEEP_SECONDS if ratio > LINEAR_RATIO else TIMED_SECONDS):
                break
        for _ in range(ROUNDS):
            if ratio <= TIMED_RATIO:
                break
            ends = (max(seconds), max(seconds) // 4)
            again = {length: await _processor_time(mixer, length, processor_seconds) for length in ends}
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


def _probed_shape(program: Remote) -> tuple[int, int]:
    """Rows and length: the scale's, at least enough for some cuts to lie within."""
    return max(4, program.settings.batch), max(33, program.settings.length)


def _row_apart(program: Remote, rows: int, length: int) -> int:
    """The row that is looked at while the others change."""
    return int(np.random.default_rng([program.seed, rows, length]).integers(rows))


async def _coupled(program: Remote, rows: int, length: int, state: State) -> Finding | None:
    inputs, reference = program.noise(rows, length), await program.reference(rows, length, state)
    apart = _row_apart(program, rows, length)
    answers: list[tuple[str, int, Values]] = []
    if state.training:  # noise drawn in training has the shape of the batch: no row can be removed
        others = program.noise(rows, length, stream=2) * np.where(np.arange(rows) % 2, 0.2, 5.0)[:, None, None]
        others[apart] = inputs[apart]
        answers.append(("the other rows change", apart, (await program.output(others, state))[apart]))
    else:
        if (rows, length) == _probed_shape(program):  # the same output serves the probe of causality
            changed = await program.with_other_ends(length, state, _cuts(program, rows, length), 0)
            answers.append(("the other rows change", apart, changed[apart]))
        for row in {apart, (apart + rows // 3) % rows, (apart + 2 * rows // 3) % rows} if rows > 8 else {apart}:
            alone = await program.output(inputs[row : row + 1], state)
            answers.append(("the other rows are removed", row, alone[0]))
    for change, row, answer in answers:
        gap = largest_gap(reference[row], answer, program.tolerance)
        if gap.relative > program.tolerance:
            evidence = gap.evidence() | {"batch": rows, "length": length}
            return Finding(True, f"a row's output changes when {change} ({state})", evidence)
    return None


def _cuts(program: Remote, rows: int, length: int, stream: int = 0) -> list[int]:
    """Where each row is cut: usual places by turns, every other one at random; in stream 0, one row stays whole."""
    usual = [cut for cut in CUTS if cut < length]
    random = np.random.default_rng([program.seed, stream, length])
    start = int(random.integers(len(usual)))
    cuts = [
        usual[(start + 5 * row) % len(usual)] if row % 2 else int(random.integers(1, length)) for row in range(rows)
    ]
    if stream == 0:
        cuts[_row_apart(program, rows, length)] = length
    return cuts


async def _perturbed(program: Remote, state: State, rows: int, length: int, stream: int = 0) -> Finding | None:
    cuts = _cuts(program, rows, length, stream)
    reference = await program.reference(rows, length, state)
    output = await program.with_other_ends(length, state, cuts, stream)
    for row, cut in enumerate(cuts):
        before = reference[row, :cut]
        size = max(size_of(before), 1e-6 * size_of(reference[row]))
        leak = gaps(before, output[row, :cut]).max(axis=-1) / size
        if not float(leak.max()) <= program.tolerance:
            return _leak("changes with", leak, int(leak.argmax()), cut, program, state, length)
    return None


async def _differentiated(program: Remote, state: State, every: int) -> Finding | None:
    length = ODD_LENGTHS[0]
    cuts = [cut for cut in CUTS if cut < length][1::every]
    inputs = np.repeat(program.noise(1, length), len(cuts), axis=0)
    past = np.arange(length) < np.array(cuts)[:, None]
    direction = np.where(past[:, :, None], program.noise(1, length, stream=3), 0.0)
    _, gradient = await program.differentiated(inputs, direction, state)
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
