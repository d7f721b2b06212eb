"""Moves on the recurrent memory: what is written, how strongly, and how it fades."""

from services.mixers.description import CHANNEL_DECAYS, DELTA_RULES, SOLVED_FORMS, Mixer
from services.mixers.moves.move import Change, Move, Papers, changed, setting, where


def _has_memory(mixer: Mixer) -> bool:
    return mixer.memory.rule != "none"


def _is_delta(mixer: Mixer) -> bool:
    return mixer.memory.rule in DELTA_RULES


def _is_linear(mixer: Mixer) -> bool:
    return mixer.memory.rule == "linear"


def _as_delta(mixer: Mixer) -> Mixer:
    memory: dict[str, object] = {"rule": "delta", "write": "sigmoid", "tied": False, "normalised": False}
    if mixer.memory.decay == "momentum":
        memory["decay"] = "retention"
    return changed(mixer, memory=memory, features={"norm": "l2"})


def _as_linear(mixer: Mixer) -> Mixer:
    write = "sigmoid" if mixer.memory.write in {"double", "split", "implicit", "preconditioned"} else mixer.memory.write
    return changed(mixer, memory={"rule": "linear", "write": write}, output={"norm": "rms"})


def _sparse(mixer: Mixer) -> Mixer:
    memory = {"decay": "sparse", "tied": True, "normalised": False, "form": "plain"}
    return changed(_as_linear(mixer), memory=memory)


def _preconditioned(mixer: Mixer) -> Mixer:
    memory: dict[str, object] = {"rule": "delta", "steps": 1, "write": "preconditioned"}
    if mixer.memory.decay in CHANNEL_DECAYS:
        memory["decay"] = "sigmoid"
    return changed(mixer, memory=memory, features={"norm": "l2"})


def _averaging(mixer: Mixer) -> Mixer:
    memory: dict[str, object] = {"normalised": True, "tied": False, "form": "plain"}
    if mixer.memory.decay in CHANNEL_DECAYS:
        memory["decay"] = "sigmoid"
    return changed(mixer, memory=memory, features={"map": "elu", "norm": "none", "rotary": "none"})


def _formed(form: str) -> Change:
    """An additive memory of this form; a decay that the form does not take becomes one by head."""

    def change(mixer: Mixer) -> Mixer:
        memory: dict[str, object] = {"form": form, "normalised": False, "tied": False}
        if mixer.memory.decay in CHANNEL_DECAYS | {"momentum"}:
            memory["decay"] = "sigmoid"
        features: dict[str, object] = {"norm": "l2"} if form in {*SOLVED_FORMS, "ages"} else {}
        return changed(_as_linear(changed(mixer, features=features)), memory=memory)

    return where(_has_memory, change)


def _by_channel(decay: str) -> Move:
    kinds = {"channel": ("ChannelForget", Papers.GLA), "floored": ("FlooredForget", Papers.HGRN2)}
    word, source = kinds[decay]

    def change(mixer: Mixer) -> Mixer:
        return changed(_as_linear(mixer), memory={"decay": decay, "normalised": False, "form": "plain"})

    return Move(
        name=f"decay_{decay}",
        what="an additive memory whose key channels fade at rates of their own"
        + (" above a learned floor" if decay == "floored" else ""),
        why="channels can then hold what is recent and what is lasting side by side",
        word=word,
        change=where(_has_memory, change),
        adds=("forget-gate", "low-rank-projection", "additive-state") + (("gate-floor",) if decay == "floored" else ()),
        removes=("delta-rule",),
        source=source,
    )


MOVES = (
    Move(
        "delta_rule",
        "a delta rule in place of the additive write",
        "a write then corrects what is stored under its key and does not pile up on it",
        "Delta",
        where(lambda m: not _is_delta(m), _as_delta),
        ("delta-rule", "write-strength"),
        Papers.DELTA_NET,
        removes=("additive-state",),
    ),
    Move(
        "additive_memory",
        "an additive memory in place of the delta rule",
        "a sum of outer products is cheaper and may be enough where keys seldom collide",
        "Additive",
        where(_is_delta, _as_linear),
        ("additive-state",),
        Papers.LINEAR_ATTENTION,
        removes=("delta-rule",),
    ),
    Move(
        "two_delta_steps",
        "two delta steps per token with keys of their own",
        "a product of two reflections can rotate the state, which one step cannot",
        "DoubleStep",
        where(_is_delta, setting(memory={"rule": "product", "steps": 2})),
        ("householder-product",),
        Papers.DELTA_PRODUCT,
    ),
    Move(
        "single_delta_step",
        "one delta step per token again",
        "the further steps cost time that they may not be worth",
        "SingleStep",
        where(lambda m: m.memory.rule == "product", setting(memory={"rule": "delta", "steps": 1})),
        removes=("householder-product",),
    ),
    Move(
        "implicit_step",
        "the step of an implicit update in place of a learned strength, and keys of any length",
        "the exact minimiser of what the step approximates is stable without a norm on the keys",
        "Implicit",
        where(lambda m: m.memory.rule == "delta", setting(memory={"write": "implicit"}, features={"norm": "none"})),
        ("test-time-learning",),
        Papers.LONGHORN,
        removes=("qk-normalisation",),
    ),
    Move(
        "preconditioned_writes",
        "written keys scaled by the inverse of their features' energy so far",
        "a step that knows the curvature fits all pairs seen, where frequent features dominate a plain one",
        "Preconditioned",
        where(_is_delta, _preconditioned),
        ("write-strength", "state-momentum"),
        Papers.PRECONDITIONED,
    ),
    Move(
        "output_feedback",
        "queries less a learned share of their own keys",
        "the read is then corrected by what the token itself would find under its key",
        "Feedback",
        where(lambda m: _has_memory(m) and m.memory.rule != "product", setting(memory={"feedback": True})),
        ("output-feedback",),
        Papers.COMBA,
    ),
    Move(
        "no_output_feedback",
        "queries without a share of their keys",
        "a query that is a key's own may be what recall needs",
        "Unfed",
        where(lambda m: m.memory.feedback, setting(memory={"feedback": False})),
        removes=("output-feedback",),
    ),
    Move(
        "write_momentum",
        "an additive memory with fixed forgetting that is written through a running sum",
        "what came just before is then written along, as momentum does in gradient descent",
        "Momentum",
        where(_has_memory, lambda m: changed(_as_linear(m), memory={"decay": "momentum", "form": "plain"})),
        ("state-momentum", "fixed-decay", "additive-state"),
        Papers.TITANS,
        removes=("delta-rule", "forget-gate"),
    ),
    Move(
        "negative_eigenvalues",
        "write strengths up to 2",
        "transitions with negative eigenvalues can track parity and other alternating states",
        "Signed",
        where(_is_delta, setting(memory={"write": "double"})),
        ("negative-eigenvalues",),
        Papers.NEGATIVE_EIGENVALUES,
    ),
    Move(
        "positive_eigenvalues",
        "write strengths below 1 again",
        "sign flips may cost more stability than state tracking gains",
        "Positive",
        where(lambda m: m.memory.write == "double", setting(memory={"write": "sigmoid"})),
        removes=("negative-eigenvalues",),
    ),
    Move(
        "full_writes",
        "writes at full strength",
        "without a learned strength each write replaces what its key held",
        "FullWrite",
        where(_has_memory, setting(memory={"write": "one"})),
        removes=("write-strength",),
    ),
    Move(
        "gated_writes",
        "a learned write strength per head",
        "tokens that carry nothing worth keeping can leave the memory alone",
        "WriteGate",
        where(_has_memory, setting(memory={"write": "sigmoid"})),
        ("write-strength",),
        Papers.DELTA_NET,
    ),
    Move(
        "channel_writes",
        "an input gate per value channel",
        "parts of a value can be kept while others are left out",
        "ChannelWrite",
        where(_is_linear, setting(memory={"write": "channel"})),
        ("input-gate", "low-rank-projection"),
        Papers.HGRN2,
    ),
    Move(
        "decay_mamba",
        "a forget gate with a rate per head and a step size per token",
        "the memory can be cleared when the context changes",
        "Selective",
        where(_has_memory, setting(memory={"decay": "mamba", "tied": False})),
        ("forget-gate", "selective-ssm"),
        Papers.GATED_DELTA_NET,
    ),
    Move(
        "decay_sigmoid",
        "a sigmoid forget gate per head that starts near 1",
        "the memory can fade where the token says so, and begins by keeping everything",
        "Forget",
        where(_has_memory, setting(memory={"decay": "sigmoid", "tied": False})),
        ("forget-gate",),
        Papers.GATED_DELTA_NET,
    ),
    Move(
        "decay_retention",
        "fixed forgetting, from fast heads to slow ones",
        "heads that see different spans need no gate to learn it",
        "Retentive",
        where(_has_memory, setting(memory={"decay": "retention", "tied": False})),
        ("fixed-decay", "multi-timescale-memory"),
        Papers.RETNET,
        removes=("forget-gate",),
    ),
    Move(
        "decay_channel_delta",
        "a delta rule whose key channels fade at rates of their own",
        "the memory can correct what it stores and still let features live for different times",
        "Kimi",
        where(_is_delta, setting(memory={"rule": "delta", "steps": 1, "decay": "channel"})),
        ("forget-gate", "low-rank-projection"),
        Papers.KIMI_LINEAR,
    ),
    Move(
        "erase_and_write_gates",
        "gates per channel that erase and write apart",
        "removing an old association and storing a new one need not have the same strength",
        "Split",
        where(_is_delta, setting(memory={"rule": "delta", "steps": 1, "write": "split"})),
        ("write-strength", "input-gate", "low-rank-projection"),
        Papers.GATED_DELTA_NET_2,
    ),
    Move(
        "sparse_slots",
        "an additive memory of which each token fades and writes a few key channels alone",
        "what a token does not choose stays untouched, however many tokens follow",
        "SparseSlots",
        where(_has_memory, _sparse),
        ("forget-gate", "memory-slots", "content-router", "input-gate", "additive-state"),
        Papers.RAVEN,
        removes=("delta-rule",),
    ),
    Move(
        "trapezoidal_writes",
        "an additive memory that also writes, once faded, what the token before wrote",
        "an integral by the trapezoid's rule is of second order, and can stand for a short convolution",
        "Trapezoid",
        _formed("trapezoid"),
        ("token-shift", "additive-state"),
        Papers.MAMBA3,
        removes=("delta-rule",),
    ),
    Move(
        "log_linear_memory",
        "an additive memory of spans that double in length, each read by a weight of its own",
        "a logarithmic number of states keeps the near past in detail and the far past in summary",
        "LogLinear",
        _formed("levels"),
        ("hierarchical-memory", "multi-timescale-memory", "additive-state"),
        Papers.LOG_LINEAR,
        removes=("delta-rule",),
    ),
    Move(
        "mesa_reads",
        "queries that solve the regression of all values on all keys, by conjugate gradients",
        "one read then accounts for correlated keys, which a step per token corrects only slowly",
        "Mesa",
        _formed("mesa"),
        ("test-time-learning", "dense-transition", "additive-state", "qk-normalisation"),
        Papers.MESA_NET,
        removes=("delta-rule",),
    ),
    Move(
        "ridge_reads",
        "queries that solve a fading ridge regression, its ridge in proportion to what is stored",
        "the exact Kalman gain stays well conditioned, and a fixed iteration needs no divisions by residuals",
        "Kalman",
        _formed("ridge"),
        ("test-time-learning", "dense-transition", "additive-state", "qk-normalisation"),
        Papers.KALMA_NET,
        removes=("delta-rule",),
    ),
    Move(
        "householder_positions",
        "an additive memory that each token reflects along a direction of its own",
        "what lies between two tokens then decides how they relate, not their distance alone",
        "Reflected",
        _formed("householder"),
        ("householder-product", "rotary-phase", "additive-state", "low-rank-projection"),
        Papers.PATH,
        removes=("delta-rule",),
    ),
    Move(
        "memory_by_age",
        "an additive memory of slots by age, which a learned clock moves on, read by a softmax over ages",
        "one matrix for all ages lets old and new associations interfere",
        "ByAge",
        _formed("ages"),
        ("memory-slots", "multi-timescale-memory", "rotary-phase", "additive-state", "qk-normalisation"),
        Papers.CYFA,
        removes=("delta-rule",),
    ),
    Move(
        "plain_memory",
        "an additive memory that is written and read by a single product",
        "one state that is read as it is costs least",
        "OneState",
        where(lambda m: m.memory.form != "plain", setting(memory={"form": "plain"})),
        removes=("token-shift", "hierarchical-memory", "test-time-learning", "householder-product"),
    ),
    _by_channel("channel"),
    _by_channel("floored"),
    Move(
        "no_decay",
        "a memory that does not fade",
        "forgetting may lose facts that a corrective write would have kept apart",
        "Lasting",
        where(_has_memory, setting(memory={"decay": "none", "tied": False})),
        removes=("forget-gate", "fixed-decay"),
    ),
    Move(
        "tied_input_gate",
        "keys scaled by one minus the forget gate",
        "what is written then balances what is forgotten, and the state stays bounded",
        "Tied",
        where(_is_linear, setting(memory={"tied": True})),
        ("input-gate", "state-normalisation"),
        Papers.HGRN2,
    ),
    Move(
        "normalised_memory",
        "a read divided by the accumulated weights",
        "the result is an average of values, whatever the length of the context",
        "Averaged",
        where(_is_linear, _averaging),
        ("state-normalisation",),
        Papers.LINEAR_ATTENTION,
    ),
    Move(
        "unnormalised_memory",
        "a read without its denominator",
        "the denominator can vanish and the output norm already fixes the scale",
        "Unnormalised",
        where(_is_linear, setting(memory={"normalised": False}, output={"norm": "rms"})),
        source=Papers.TRANSNORMER,
        removes=("state-normalisation",),
    ),
    Move(
        "current_token_bonus",
        "an extra weight for the current token",
        "the newest token often deserves more than its share of an old memory",
        "Bonus",
        where(_is_linear, setting(memory={"bonus": True})),
        ("value-residual",),
        Papers.RWKV,
    ),
    Move(
        "no_bonus",
        "no extra weight for the current token",
        "the memory already holds it",
        "Plain",
        where(lambda m: m.memory.bonus, setting(memory={"bonus": False})),
        removes=("value-residual",),
    ),
)
