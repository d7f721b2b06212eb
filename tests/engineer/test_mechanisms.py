"""Mechanisms of the memory that no kernel has by itself, token by token from the program's own parameters."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from services.engineer.construction import MixerSizes
from services.engineer.program import load_mixer
from services.mixers.description import LEVELS, Decay, Features, Form, Inputs, Memory, Mixer, Output, Path
from services.mixers.render import render
from tests.fla_cpu.conftest import load

pytestmark = pytest.mark.usefixtures("prepared_child")
WIDTH, HEADS, LENGTH = 16, 2, 37
PLAIN = Inputs(convolved="")
RAW = Features(map="identity", norm="none")


def module_of(memory: Memory) -> Any:
    """A plain mixer around the memory; its parts are named as in its program."""
    torch.manual_seed(0)
    mixer = Mixer(inputs=PLAIN, features=RAW, memory=memory, output=Output(norm="rms"))
    return load_mixer(render(mixer, "Probe", "a probe"), MixerSizes(width=WIDTH, heads=HEADS, layer=0))


def heads(x: Tensor) -> Tensor:
    return x.view(*x.shape[:-1], HEADS, -1)


def finished(module: Any, reads: list[Tensor]) -> Tensor:
    """What the program does with its reads: a norm per head and a projection."""
    normed = module.o_norm(torch.stack(reads, dim=1) * (WIDTH // HEADS) ** -0.5)
    output: Tensor = module.o_proj(normed.flatten(2))
    return output


def outputs(module: Any, x: Tensor) -> Tensor:
    output: Tensor = module(x)[0]
    return output


@torch.no_grad()
def test_momentum_writes_a_running_sum() -> None:
    module, x = module_of(Memory(rule="linear", write="one", decay="momentum")), torch.randn(2, LENGTH, WIDTH)
    q, k, v = (heads(part) for part in (module.q_proj(x), module.k_proj(x), F.silu(module.v_proj(x))))
    keeps = torch.as_tensor(module.log_decay).exp()[:, None, None]
    momentum = (0.9 * torch.as_tensor(module.momentum).sigmoid())[:, None, None]
    state = running = torch.zeros(2, HEADS, WIDTH // HEADS, WIDTH // HEADS)
    reads = []
    for t in range(LENGTH):
        running = momentum * running + k[:, t, :, :, None] * v[:, t, :, None, :]
        state = keeps * state + running
        reads.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))

    assert torch.allclose(outputs(module, x), finished(module, reads), atol=1e-4)


@torch.no_grad()
def test_an_implicit_step_ends_where_its_equation_holds() -> None:
    """S = S_before + weight k (v − Sᵀk)ᵀ, with the new state on both sides: solved here as a linear system."""
    module, x = module_of(Memory(write="implicit")), 3 * torch.randn(2, LENGTH, WIDTH)
    q, k, v = (heads(part) for part in (module.q_proj(x), module.k_proj(x), F.silu(module.v_proj(x))))
    weight = F.softplus(module.write_proj(x))[..., None, None]
    state = torch.zeros(2, HEADS, WIDTH // HEADS, WIDTH // HEADS)
    reads = []
    for t in range(LENGTH):
        column = k[:, t, :, :, None]
        system = torch.eye(WIDTH // HEADS) + weight[:, t] * column @ column.mT
        state = torch.linalg.solve(system, state + weight[:, t] * column @ v[:, t, :, None, :])
        reads.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))

    assert torch.allclose(outputs(module, x), finished(module, reads), atol=1e-4)


@torch.no_grad()
def test_a_trapezoid_writes_what_the_token_before_wrote_once_faded() -> None:
    module = module_of(Memory(rule="linear", write="one", decay="retention", form="trapezoid"))
    x = torch.randn(2, LENGTH, WIDTH)
    q, k, v = (heads(part) for part in (module.q_proj(x), module.k_proj(x), F.silu(module.v_proj(x))))
    keeps = torch.as_tensor(module.log_decay).exp()[:, None, None]
    share = module.share_proj(x).sigmoid()[..., None, None]
    state = before = torch.zeros(2, HEADS, WIDTH // HEADS, WIDTH // HEADS)
    reads = []
    for t in range(LENGTH):
        write = k[:, t, :, :, None] * v[:, t, :, None, :]
        state = keeps * state + keeps * (1 - share[:, t]) * before + share[:, t] * write
        before = write
        reads.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))

    assert torch.allclose(outputs(module, x), finished(module, reads), atol=1e-4)


@pytest.mark.parametrize("length", [1, 63, 100, 193])
def test_spans_are_read_as_in_fla(length: int) -> None:
    """Against the quadratic form of fla, outputs and gradients; 193 tokens are seven chunks."""
    module = module_of(Memory(rule="linear", write="one", decay="sigmoid", form="levels"))
    spans_attention = module.forward.__globals__["spans_attention"]
    shape = (2, length, HEADS)
    sizes = {"q": 8, "k": 8, "v": 6, "weights": LEVELS}
    tensors = [torch.randn(*shape, size, requires_grad=True) for size in sizes.values()]
    g = F.logsigmoid(torch.randn(shape)).requires_grad_()
    q, k, v, weights = tensors
    ours = spans_attention(q, k, v, weights, g)
    theirs = load("ops/log_linear_attn/naive.py").naive_log_linear_attn(q, k, v, g, weights, None)
    loss = torch.randn_like(ours)
    inputs = [*tensors, g]

    assert torch.allclose(ours, theirs, atol=1e-4)
    for gradient, other in zip(*(torch.autograd.grad(o, inputs, loss) for o in (ours, theirs)), strict=True):
        assert torch.allclose(gradient, other, atol=1e-4)


@pytest.mark.parametrize(("form", "steps"), [("mesa", 8), ("ridge", 60)])
def test_solved_queries_are_those_of_the_exact_regression(form: Form, steps: int) -> None:
    """With as many steps as the iteration needs; at 37 tokens the sums pass from one chunk to the next."""
    memory = Memory(rule="linear", write="sigmoid", decay="sigmoid", form=form)
    mixer = Mixer(inputs=PLAIN, features=Features(map="identity", norm="l2"), memory=memory)
    torch.manual_seed(0)
    module: Any = load_mixer(render(mixer, "Probe", "a probe"), MixerSizes(width=WIDTH, heads=HEADS, layer=0))
    module.solve_steps = steps
    x = torch.randn(2, LENGTH, WIDTH, requires_grad=True)
    q, k, v = (heads(part) for part in (module.q_proj(x), module.k_proj(x), F.silu(module.v_proj(x))))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    g, beta = F.logsigmoid(module.forget_proj(x)), module.write_proj(x).sigmoid()
    if form == "mesa":
        ridge = 0.25 + F.softplus(module.ridge)
        reads, *_ = load("ops/mesa_net/naive.py").naive_mesa_net_exact(q, k, v, g, ridge, beta)
    else:
        share = (0.5 + F.softplus(module.ridge_proj(x)))[..., None, None]
        covariance = state = torch.zeros(2, HEADS, WIDTH // HEADS, WIDTH // HEADS)
        steps_read = []
        for t in range(LENGTH):
            keeps, column = g[:, t].exp()[..., None, None], (beta[:, t, :, None] * k[:, t])[..., None]
            covariance = keeps * covariance + column * k[:, t, :, None, :]
            state = keeps * state + column * v[:, t, :, None, :]
            trace = covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
            system = covariance + (share[:, t] * trace / k.shape[-1] + 1e-3) * torch.eye(k.shape[-1])
            steps_read.append(torch.einsum("bhk,bhkv->bhv", torch.linalg.solve(system, q[:, t]), state))
        reads = torch.stack(steps_read, dim=1)
    ours, exact = outputs(module, x), finished(module, list(reads.unbind(1)))

    assert torch.allclose(ours, exact, atol=1e-3)
    gradient, other = (torch.autograd.grad(o.square().sum(), x)[0] for o in (ours, exact))
    assert torch.allclose(gradient, other, atol=1e-2)


@pytest.mark.parametrize("decay", ["none", "sigmoid"])
def test_preconditioned_writes_are_those_of_fla(decay: Decay) -> None:
    torch.manual_seed(0)
    memory = Memory(write="preconditioned", decay=decay)
    mixer = Mixer(inputs=PLAIN, features=Features(map="identity"), memory=memory)
    module: Any = load_mixer(render(mixer, "Probe", "a probe"), MixerSizes(width=WIDTH, heads=HEADS, layer=0))
    x = torch.randn(2, LENGTH, WIDTH, requires_grad=True)
    q, k, v = (heads(part) for part in (module.q_proj(x), module.k_proj(x), F.silu(module.v_proj(x))))
    beta = module.write_proj(x).sigmoid()
    g = F.logsigmoid(module.forget_proj(x)) if decay == "sigmoid" else torch.zeros_like(beta)
    reads, *_ = load("ops/precond_gated_delta_rule/naive.py").naive_recurrent_precond_gated_delta_rule(
        q, k, v, g, g, beta, beta, scale=1.0, log_atk_scale=module.energy_centre[:, 0]
    )
    ours, theirs = outputs(module, x), finished(module, list(reads.unbind(1)))

    assert torch.allclose(ours, theirs, atol=1e-4)
    gradient, other = (torch.autograd.grad(o.square().sum(), x)[0] for o in (ours, theirs))
    assert torch.allclose(gradient, other, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("decay", ["none", "mamba"])
def test_positions_by_householder_reflect_the_state_at_every_token(decay: Decay) -> None:
    module = module_of(Memory(rule="linear", write="one", decay=decay, form="householder"))
    x = torch.randn(2, LENGTH, WIDTH)
    q, k, v = (heads(part) for part in (module.q_proj(x), module.k_proj(x), F.silu(module.v_proj(x))))
    turn = heads(module.turn_conv(module.turn_up(module.turn_down(x)))[0])
    turn = turn / (turn.square().sum(dim=-1, keepdim=True) + 1e-6).sqrt()
    angle = 2 * module.turn_proj(x).sigmoid()
    g = torch.zeros_like(angle)
    if decay == "mamba":
        g = -module.log_rate.exp() * F.softplus(module.step_proj(x) + module.step_bias)
    state = torch.zeros(2, HEADS, WIDTH // HEADS, WIDTH // HEADS)
    reads = []
    for t in range(LENGTH):
        column = turn[:, t, :, :, None]
        reflection = torch.eye(WIDTH // HEADS) - angle[:, t, :, None, None] * column @ column.mT
        state = g[:, t].exp()[..., None, None] * reflection @ state + k[:, t, :, :, None] * v[:, t, :, None, :]
        reads.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))

    assert torch.allclose(outputs(module, x), finished(module, reads), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 31, 100])
def test_a_linear_window_is_that_of_fla(length: int) -> None:
    torch.manual_seed(0)
    mixer = Mixer(inputs=PLAIN, features=RAW, memory=Memory(rule="none"), paths=(Path(kind="linear_window", size=16),))
    module: Any = load_mixer(render(mixer, "Probe", "a probe"), MixerSizes(width=WIDTH, heads=HEADS, layer=0))
    q, r, k, v = torch.randn(4, 2, length, HEADS, 8).unbind(0)
    ours = module.forward.__globals__["window_attention"](q, k, v, 16, probe=r)

    assert torch.allclose(ours, load("ops/parallax/naive.py").naive_parallax(q, r, k, v, 1.0, 16), atol=1e-5)


@torch.no_grad()
def test_sparse_slots_that_a_token_does_not_choose_stay_as_they_are() -> None:
    module = module_of(Memory(rule="linear", write="one", decay="sparse", tied=True))
    x = torch.randn(2, LENGTH, WIDTH)
    q, k, v = (heads(part) for part in (module.q_proj(x), module.k_proj(x), F.silu(module.v_proj(x))))
    route = heads(module.route_up(module.route_down(x)).sigmoid())
    chosen = torch.zeros_like(route).scatter(-1, route.topk(WIDTH // HEADS // 4).indices, 1.0)
    keeps = (-module.log_rate.exp() * route * chosen).exp()
    state = torch.zeros(2, HEADS, WIDTH // HEADS, WIDTH // HEADS)
    reads = []
    for t in range(LENGTH):
        written = (1 - keeps[:, t]) * k[:, t]
        before, state = state, keeps[:, t, ..., None] * state + written[..., None] * v[:, t, :, None, :]
        assert torch.equal(before[chosen[:, t] == 0], state[chosen[:, t] == 0])
        reads.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))

    assert torch.allclose(outputs(module, x), finished(module, reads), atol=1e-4)


@torch.no_grad()
def test_a_memory_by_age_keeps_slots_that_move_on_with_its_clock() -> None:
    """Computed here with the slots themselves: a write between two ages is spread by interpolation."""
    module, x = (
        module_of(Memory(rule="linear", write="one", decay="sigmoid", form="ages")),
        torch.randn(2, LENGTH, WIDTH),
    )
    q, k, v = (heads(part) for part in (module.q_proj(x), module.k_proj(x), F.silu(module.v_proj(x))))
    q = q * module.age_sharpness.exp()
    count = WIDTH // HEADS - 1
    clock = module.clock_proj(x).sigmoid().cumsum(dim=1)
    faded = F.logsigmoid(module.forget_proj(x)).cumsum(dim=1)
    reads = []
    for t in range(LENGTH):
        age = clock[:, t, None] - clock[:, : t + 1]  # [batch, written, heads]
        decayed = (faded[:, t, None] - faded[:, : t + 1]).exp()
        distance = 2 * torch.pi / count * (age[..., None] - torch.arange(count))
        spread = (
            (1 + 2 * sum((wave * distance).cos() for wave in range(1, WIDTH // HEADS // 2)))
            / count
            * decayed[..., None]
        )
        keys = torch.einsum("bihs,bihk->bhsk", spread, k[:, : t + 1])
        values = torch.einsum("bihs,bihv->bhsv", spread, v[:, : t + 1])
        shares = torch.einsum("bhsk,bhk->bhs", keys, q[:, t]).softmax(dim=-1)
        reads.append(torch.einsum("bhs,bhsv->bhv", shares, values) * (WIDTH // HEADS) ** 0.5)

    assert torch.allclose(outputs(module, x), finished(module, reads), atol=1e-3)


@torch.no_grad()
def test_output_feedback_takes_a_share_of_the_key_from_the_query() -> None:
    module, x = module_of(Memory(rule="linear", write="one", feedback=True)), torch.randn(2, LENGTH, WIDTH)
    q, k, v = (heads(part) for part in (module.q_proj(x), module.k_proj(x), F.silu(module.v_proj(x))))
    corrected = q - torch.as_tensor(module.feedback) * k
    scores = torch.einsum("bihd,bjhd->bhij", corrected, k).tril()
    reads = torch.einsum("bhij,bjhd->bihd", scores, v)

    assert torch.allclose(outputs(module, x), finished(module, list(reads.unbind(1))), atol=1e-4)


@torch.no_grad()
def test_a_routed_memory_holds_what_was_written_into_it_alone() -> None:
    """A token reads, with the weight of its choice, what earlier tokens of the same choice wrote."""
    torch.manual_seed(0)
    mixer = Mixer(inputs=PLAIN, features=RAW, memory=Memory(rule="none"), paths=(Path(kind="routed"),))
    module: Any = load_mixer(render(mixer, "Probe", "a probe"), MixerSizes(width=WIDTH, heads=HEADS, layer=0))
    x = torch.randn(2, LENGTH, WIDTH)
    q, k, v = (heads(part) for part in (module.q_proj(x), module.k_proj(x), F.silu(module.v_proj(x))))
    chances = module.route(x).view(2, LENGTH, HEADS, 2).softmax(dim=-1)
    choice = chances.argmax(dim=-1)
    steps = torch.arange(LENGTH)
    age = (steps[:, None] - steps[None, :]).clamp(min=0)
    faded = (torch.as_tensor(module.routed_log_decay)[:, None, None] * age).exp().tril()
    same = (choice[:, :, None] == choice[:, None, :]).permute(0, 3, 1, 2)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * faded * same
    reads = torch.einsum("bhij,bjhd->bihd", scores, v) * chances.amax(dim=-1)[..., None]

    assert torch.allclose(outputs(module, x), finished(module, list(reads.unbind(1))), atol=1e-4)
