"""Moves on the recurrent memory: what is written, how strongly, and how it fades."""

from collections.abc import Mapping

from services.mixers.description import CHANNEL_DECAYS, DELTA_RULES, SOLVED_FORMS, Mixer
from services.mixers.moves.move import Change, Values, changed, moves, setting, where


def _has_memory(mixer: Mixer) -> bool:
    return mixer.memory.rule != "none"


def _is_linear(mixer: Mixer) -> bool:
    return mixer.memory.rule == "linear"


def _is_delta(mixer: Mixer) -> bool:
    return mixer.memory.rule in DELTA_RULES


def _as_delta(mixer: Mixer) -> Mixer:
    memory: dict[str, object] = {"rule": "delta", "write": "sigmoid", "tied": False, "normalised": False}
    if mixer.memory.decay == "momentum":
        memory["decay"] = "retention"
    return changed(mixer, memory=memory, features={"norm": "l2"})


def _as_linear(mixer: Mixer) -> Mixer:
    write = "sigmoid" if mixer.memory.write in {"double", "split", "implicit", "preconditioned"} else mixer.memory.write
    return changed(mixer, memory={"rule": "linear", "write": write}, output={"norm": "rms"})


def _with_head_decay(memory: Values, no_decays: frozenset[str] = CHANNEL_DECAYS, **features: object) -> Change:
    """Fields of the memory and the features set; a decay that does not go with them becomes one by head."""

    def change(mixer: Mixer) -> Mixer:
        by_head = {"decay": "sigmoid"} if mixer.memory.decay in no_decays else {}
        return changed(mixer, memory={**memory, **by_head}, features=features)

    return change


def _additive(**memory: object) -> Change:
    """An additive memory with these fields."""
    return where(_has_memory, lambda mixer: changed(_as_linear(mixer), memory=memory))


def _formed(form: str) -> Change:
    """An additive memory of this form."""
    features = {"norm": "l2"} if form in {*SOLVED_FORMS, "ages"} else {}
    formed = _with_head_decay({"form": form, "normalised": False, "tied": False}, CHANNEL_DECAYS | {"momentum"})
    return where(_has_memory, lambda mixer: formed(_as_linear(changed(mixer, features=features))))


_TEXTS = """
delta_rule (Delta)
    a delta rule in place of the additive write
    because a write then corrects what is stored under its key and does not pile up on it
    + delta-rule, write-strength; - additive-state; by DELTA_NET
additive_memory (Additive)
    an additive memory in place of the delta rule
    because a sum of outer products is cheaper and may be enough where keys seldom collide
    + additive-state; - delta-rule; by LINEAR_ATTENTION
two_delta_steps (DoubleStep)
    two delta steps per token with keys of their own
    because a product of two reflections can rotate the state, which one step cannot
    + householder-product; by DELTA_PRODUCT
single_delta_step (SingleStep)
    one delta step per token again
    because the further steps cost time that they may not be worth
    - householder-product
implicit_step (Implicit)
    the step of an implicit update in place of a learned strength, and keys of any length
    because the exact minimiser of what the step approximates is stable without a norm on the keys
    + test-time-learning; - qk-normalisation; by LONGHORN
preconditioned_writes (Preconditioned)
    written keys scaled by the inverse of their features' energy so far
    because a step that knows the curvature fits all pairs seen, where frequent features dominate a plain one
    + write-strength, state-momentum; by PRECONDITIONED
output_feedback (Feedback): memory.feedback=true
    queries less a learned share of their own keys
    because the read is then corrected by what the token itself would find under its key
    + output-feedback; by COMBA
no_output_feedback (Unfed): memory.feedback=false
    queries without a share of their keys
    because a query that is a key's own may be what recall needs
    - output-feedback
write_momentum (Momentum)
    an additive memory with fixed forgetting that is written through a running sum
    because what came just before is then written along, as momentum does in gradient descent
    + state-momentum, fixed-decay, additive-state; - delta-rule, forget-gate; by TITANS
negative_eigenvalues (Signed): memory.write=double
    write strengths up to 2
    because transitions with negative eigenvalues can track parity and other alternating states
    + negative-eigenvalues; by NEGATIVE_EIGENVALUES
positive_eigenvalues (Positive)
    write strengths below 1 again
    because sign flips may cost more stability than state tracking gains
    - negative-eigenvalues
full_writes (FullWrite): memory.write=one
    writes at full strength
    because without a learned strength each write replaces what its key held
    - write-strength
gated_writes (WriteGate): memory.write=sigmoid
    a learned write strength per head
    because tokens that carry nothing worth keeping can leave the memory alone
    + write-strength; by DELTA_NET
channel_writes (ChannelWrite): memory.write=channel
    an input gate per value channel
    because parts of a value can be kept while others are left out
    + input-gate, low-rank-projection; by HGRN2
decay_mamba (Selective): memory.decay=mamba, memory.tied=false
    a forget gate with a rate per head and a step size per token
    because the memory can be cleared when the context changes
    + forget-gate, selective-ssm; by GATED_DELTA_NET
decay_sigmoid (Forget): memory.decay=sigmoid, memory.tied=false
    a sigmoid forget gate per head that starts near 1
    because the memory can fade where the token says so, and begins by keeping everything
    + forget-gate; by GATED_DELTA_NET
decay_retention (Retentive): memory.decay=retention, memory.tied=false
    fixed forgetting, from fast heads to slow ones
    because heads that see different spans need no gate to learn it
    + fixed-decay, multi-timescale-memory; - forget-gate; by RETNET
decay_channel_delta (Kimi)
    a delta rule whose key channels fade at rates of their own
    because the memory can correct what it stores and still let features live for different times
    + forget-gate, low-rank-projection; by KIMI_LINEAR
erase_and_write_gates (Split)
    gates per channel that erase and write apart
    because removing an old association and storing a new one need not have the same strength
    + write-strength, input-gate, low-rank-projection; by GATED_DELTA_NET_2
sparse_slots (SparseSlots)
    an additive memory of which each token fades and writes a few key channels alone
    because what a token does not choose stays untouched, however many tokens follow
    + forget-gate, memory-slots, content-router, input-gate, additive-state; - delta-rule; by RAVEN
trapezoidal_writes (Trapezoid)
    an additive memory that also writes, once faded, what the token before wrote
    because an integral by the trapezoid's rule is of second order, and can stand for a short convolution
    + token-shift, additive-state; - delta-rule; by MAMBA3
log_linear_memory (LogLinear)
    an additive memory of spans that double in length, each read by a weight of its own
    because a logarithmic number of states keeps the near past in detail and the far past in summary
    + hierarchical-memory, multi-timescale-memory, additive-state; - delta-rule; by LOG_LINEAR
mesa_reads (Mesa)
    queries that solve the regression of all values on all keys, by conjugate gradients
    because one read then accounts for correlated keys, which a step per token corrects only slowly
    + test-time-learning, dense-transition, additive-state, qk-normalisation; - delta-rule; by MESA_NET
ridge_reads (Kalman)
    queries that solve a fading ridge regression, its ridge in proportion to what is stored
    because the exact Kalman gain stays well conditioned, and a fixed iteration needs no divisions by residuals
    + test-time-learning, dense-transition, additive-state, qk-normalisation; - delta-rule; by KALMA_NET
householder_positions (Reflected)
    an additive memory that each token reflects along a direction of its own
    because what lies between two tokens then decides how they relate, not their distance alone
    + householder-product, rotary-phase, additive-state, low-rank-projection; - delta-rule; by PATH
memory_by_age (ByAge)
    an additive memory of slots by age, which a learned clock moves on, read by a softmax over ages
    because one matrix for all ages lets old and new associations interfere
    + memory-slots, multi-timescale-memory, rotary-phase, additive-state, qk-normalisation; - delta-rule; by CYFA
plain_memory (OneState): memory.form=plain
    an additive memory that is written and read by a single product
    because one state that is read as it is costs least
    - token-shift, hierarchical-memory, test-time-learning, householder-product
decay_channel (ChannelForget)
    an additive memory whose key channels fade at rates of their own
    because channels can then hold what is recent and what is lasting side by side
    + forget-gate, low-rank-projection, additive-state; - delta-rule; by GLA
decay_floored (FlooredForget)
    an additive memory whose key channels fade at rates of their own above a learned floor
    because channels can then hold what is recent and what is lasting side by side
    + forget-gate, low-rank-projection, additive-state, gate-floor; - delta-rule; by HGRN2
no_decay (Lasting): memory.decay=none, memory.tied=false
    a memory that does not fade
    because forgetting may lose facts that a corrective write would have kept apart
    - forget-gate, fixed-decay
tied_input_gate (Tied): memory.tied=true
    keys scaled by one minus the forget gate
    because what is written then balances what is forgotten, and the state stays bounded
    + input-gate, state-normalisation; by HGRN2
normalised_memory (Averaged)
    a read divided by the accumulated weights
    because the result is an average of values, whatever the length of the context
    + state-normalisation; by LINEAR_ATTENTION
unnormalised_memory (Unnormalised)
    a read without its denominator
    because the denominator can vanish and the output norm already fixes the scale
    - state-normalisation; by TRANSNORMER
current_token_bonus (Bonus): memory.bonus=true
    an extra weight for the current token
    because the newest token often deserves more than its share of an old memory
    + value-residual; by RWKV
no_bonus (Plain): memory.bonus=false
    no extra weight for the current token
    because the memory already holds it
    - value-residual
"""
_CHANGES: Mapping[str, Change] = {
    "delta_rule": where(lambda m: not _is_delta(m), _as_delta),
    "additive_memory": where(_is_delta, _as_linear),
    "two_delta_steps": where(_is_delta, setting(memory={"rule": "product", "steps": 2})),
    "single_delta_step": where(lambda m: m.memory.rule == "product", setting(memory={"rule": "delta", "steps": 1})),
    "implicit_step": where(
        lambda m: m.memory.rule == "delta", setting(memory={"write": "implicit"}, features={"norm": "none"})
    ),
    "preconditioned_writes": where(
        _is_delta, _with_head_decay({"rule": "delta", "steps": 1, "write": "preconditioned"}, norm="l2")
    ),
    "write_momentum": _additive(decay="momentum", form="plain"),
    "positive_eigenvalues": where(lambda m: m.memory.write == "double", setting(memory={"write": "sigmoid"})),
    "decay_channel_delta": where(_is_delta, setting(memory={"rule": "delta", "steps": 1, "decay": "channel"})),
    "erase_and_write_gates": where(_is_delta, setting(memory={"rule": "delta", "steps": 1, "write": "split"})),
    "sparse_slots": _additive(decay="sparse", tied=True, normalised=False, form="plain"),
    "trapezoidal_writes": _formed("trapezoid"),
    "log_linear_memory": _formed("levels"),
    "mesa_reads": _formed("mesa"),
    "ridge_reads": _formed("ridge"),
    "householder_positions": _formed("householder"),
    "memory_by_age": _formed("ages"),
    "decay_channel": _additive(decay="channel", normalised=False, form="plain"),
    "decay_floored": _additive(decay="floored", normalised=False, form="plain"),
    "normalised_memory": where(
        _is_linear,
        _with_head_decay({"normalised": True, "tied": False, "form": "plain"}, map="elu", norm="none", rotary="none"),
    ),
    "unnormalised_memory": where(_is_linear, setting(memory={"normalised": False}, output={"norm": "rms"})),
}
MOVES = moves(_TEXTS, _CHANGES)
