"""A program's text becomes a mixer by fixed rules, and what cannot is refused with the reason."""

import inspect
import time
import traceback
from functools import partial

import pytest
import torch
from torch import nn

from services.engineer.checks.child import build
from services.engineer.checks.report import CheckSettings
from services.engineer.checks.subject import DOUBLE, SINGLE, Subject
from services.engineer.program import BadConstructor, MixerSizes, NoMixer, execute, explain, find_mixer, load_mixer

pytestmark = pytest.mark.usefixtures("prepared_child")
SIZES = MixerSizes(width=16, heads=2, layer=3)
HEAD = "import torch\nfrom torch import nn\n\n"


def kind(name: str, arguments: str = "hidden_size", body: str = "pass", takes: str = "hidden_states") -> str:
    """The text of a mixer that returns what it gets."""
    return (
        f"class {name}(nn.Module):\n"
        f"    def __init__(self, {arguments}):\n        super().__init__()\n        {body}\n"
        f"    def forward(self, {takes}):\n        return {takes}\n\n"
    )


def mixer_name(*kinds: str) -> str:
    """The name of the class that the rules choose."""
    source = HEAD + "".join(kinds)
    return find_mixer(execute(source), source).__name__


def constructor_arguments(arguments: str) -> dict[str, object]:
    """What the constructor is called with."""
    body = "self.given = {k: v for k, v in locals().items() if k not in ('self', '__class__', 'kwargs')}"
    body += " | locals().get('kwargs', {})"
    answer: dict[str, object] = vars(load_mixer(HEAD + kind("Mixer", arguments, body), SIZES))["given"]
    return answer


def test_the_class_called_delta_net_is_the_mixer() -> None:
    """Published programs keep that name, with helpers behind it."""
    assert mixer_name(kind("DeltaNet"), kind("Helper")) == "DeltaNet"


def test_a_part_that_another_class_constructs_is_not_the_mixer() -> None:
    """A feed-forward part with a forward of hidden_states, before or behind the class that uses it."""
    outer = kind("Whole", body="self.part = Part(hidden_size)")

    assert mixer_name(kind("Part"), outer) == "Whole"
    assert mixer_name(outer, kind("Part")) == "Whole"


def test_a_long_program_is_parsed_once() -> None:
    """A check constructs mixers a hundred times."""
    source = f"{HEAD}{kind('Mixer')}TABLE = [{', '.join(['1'] * 40_000)}]\n"
    seconds = []
    for _ in range(2):
        begun = time.process_time()
        load_mixer(source, SIZES)
        seconds.append(time.process_time() - begun)

    assert seconds[1] < seconds[0] / 5


def test_of_several_unrelated_mixers_the_last_is_taken() -> None:
    """One rule for everybody instead of a guess."""
    assert mixer_name(kind("First"), kind("Second")) == "Second"


def test_a_forward_with_hidden_states_is_preferred() -> None:
    """Helpers mostly take x."""
    assert mixer_name(kind("Mixer"), kind("Norm", takes="x")) == "Mixer"


def test_a_lone_mixer_may_call_its_input_x() -> None:
    """Models write both."""
    assert mixer_name(kind("Mixer", takes="x")) == "Mixer"


def test_an_imported_module_is_not_the_program_s_own() -> None:
    """`from torch.nn import Linear` defines no mixer."""
    with pytest.raises(NoMixer, match="define one whose forward takes hidden_states"):
        load_mixer("from torch.nn import Linear\n", SIZES)


def test_a_delta_net_that_is_not_a_module_is_refused() -> None:
    """The name alone is not enough."""
    with pytest.raises(NoMixer):
        load_mixer("class DeltaNet:\n    pass\n", SIZES)


def test_the_constructor_gets_only_what_it_names() -> None:
    """Without **kwargs every other argument would be an error."""
    assert constructor_arguments("d_model, num_heads=8, layer_idx=None") == {
        "d_model": 16,
        "num_heads": 2,
        "layer_idx": 3,
    }


def test_a_constructor_with_kwargs_gets_all_usual_arguments() -> None:
    """And none of the synonyms, which it might hand on."""
    arguments = constructor_arguments("hidden_size=1024, **kwargs")

    assert arguments["hidden_size"] == arguments["d_model"] == 16
    assert {"use_beta", "use_short_conv", "conv_size", "expand_k", "qk_norm"} <= set(arguments)
    assert not {"dim", "head_dim", "n_heads"} & set(arguments)


def test_synonyms_are_passed_to_constructors_that_name_them() -> None:
    """The width of a head follows from width and heads."""
    assert constructor_arguments("dim, n_heads, head_dim") == {"dim": 16, "n_heads": 2, "head_dim": 8}


def test_an_unknown_required_argument_is_named() -> None:
    """The message states what to repair."""
    with pytest.raises(BadConstructor, match=r"Mixer.__init__ requires 'banana'.*give it a default"):
        load_mixer(HEAD + kind("Mixer", "hidden_size, banana"), SIZES)


def test_an_unknown_argument_with_a_default_keeps_it() -> None:
    """Programs have options of their own."""
    assert constructor_arguments("hidden_size, banana=7") == {"hidden_size": 16, "banana": 7}


def test_ambiguous_size_names_are_passed_only_if_required() -> None:
    """A default of its own says what a program means by hidden_dim."""
    assert constructor_arguments("hidden_dim, heads, dim_head") == {"hidden_dim": 16, "heads": 2, "dim_head": 8}
    assert constructor_arguments("dim, hidden_dim=64") == {"dim": 16, "hidden_dim": 64}


def test_a_whole_number_stays_an_int() -> None:
    """nn.Linear takes no float, and fla's expand_v is one."""
    expansion = constructor_arguments("hidden_size, expand_v=2")["expand_v"]

    assert (expansion, type(expansion)) == (1, int)


def test_a_program_with_other_options_keeps_its_own_defaults() -> None:
    """Its `mode` may have other values than fla's."""
    body = "assert mode in ('parallel', 'recurrent'); self.given = (hidden_size, mode, conv_size)"
    mixer = load_mixer(HEAD + kind("Mixer", "hidden_size, mode='parallel', conv_size=3", body), SIZES)

    assert vars(mixer)["given"] == (16, "parallel", 3)
    with pytest.raises(AssertionError, match="never"):
        load_mixer(HEAD + kind("Mixer", "hidden_size, mode='parallel'", "raise AssertionError('never')"), SIZES)


@pytest.mark.parametrize("late", ["", "from __future__ import annotations\n"])
def test_a_configuration_object_is_built_like_a_mixer(late: str) -> None:
    """Its class is a dataclass of the program; fields without a known name need a default."""
    fields = "    dim: int\n    n_heads: int = 8\n    taps: int = 3\n"
    head = f"{late}from dataclasses import dataclass\n{HEAD}@dataclass\nclass Sizes:\n{fields}\n"
    mixer = load_mixer(head + kind("Mixer", "config: Sizes", "self.config = config"), SIZES)

    assert vars(vars(mixer)["config"]) == {"dim": 16, "n_heads": 2, "taps": 3}
    with pytest.raises(BadConstructor, match="annotate it with a dataclass"):
        load_mixer(HEAD + kind("Mixer", "config"), SIZES)
    with pytest.raises(BadConstructor, match=r"Sizes.__init__ requires 'vocabulary'"):
        load_mixer(
            head.replace("dim: int", "vocabulary: int") + kind("Mixer", "config: Sizes", "self.config = config"), SIZES
        )


def test_scripted_functions_run_in_plain_python() -> None:
    """A check counts their operations, and changes their precision."""
    body = "self.values = [twice(2), thrice(2)]"
    scripted = (
        "@torch.jit.script\ndef twice(x):\n    return f'{x}{x}'\n\n\nthrice = torch.jit.script(lambda x: 3 * x)\n"
    )

    assert vars(load_mixer(HEAD + scripted + kind("Mixer", body=body), SIZES))["values"] == ["22", 6]


def test_a_cached_tensor_does_not_survive_a_change_of_precision() -> None:
    """Probes compute in double precision first; a mask that a program keeps in a cache would stay double."""
    cached = "from functools import lru_cache\n\n\n@lru_cache\ndef scale(n):\n    return torch.ones(n, n) / n\n\n"
    body = "self.proj = nn.Linear(hidden_size, hidden_size)"
    mixer = kind("Mixer", body=body).replace("return hidden", "return self.proj(hidden_states) @ scale(16) + hidden")
    subject = Subject(partial(build, HEAD + cached + mixer, False), CheckSettings(probe_width=16, probe_heads=2))
    inputs = subject.noise(1, 3, 16)

    assert subject.output(inputs, arithmetic=DOUBLE).dtype is torch.float64
    assert subject.output(inputs, arithmetic=SINGLE).dtype is torch.float32


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("assert hidden_states.shape[1] % 16 == 0", "AssertionError, raised in line 9: assert hidden_states.shape[1]"),
        ("nn.Embedding(9, 4)(hidden_states)", "name the mixer's class DeltaNet"),
        ("torch.autograd.grad(hidden_states.sum(), hidden_states)", "torch.enable_grad()"),
        ("self.forward()", "give its other parameters defaults"),
    ],
)
def test_an_error_without_a_cause_gets_a_cause(body: str, message: str) -> None:
    """The author sees only the message."""
    program = kind("Mixer").replace("        return hidden_states\n", f"        {body}\n")
    with pytest.raises((AssertionError, RuntimeError, TypeError)) as raised:
        load_mixer(HEAD + program, SIZES)(torch.randn(1, 3, 16))

    assert message in explain(raised.value)


def test_the_layers_of_a_model_share_one_module() -> None:
    """Executed once, named by the text."""
    source = HEAD + kind("Mixer")

    assert type(load_mixer(source, SIZES)) is type(load_mixer(source, SIZES))
    assert execute(source) is not execute(source + "# another text\n")


def test_a_program_that_fails_is_executed_anew_next_time() -> None:
    """A partially executed module must not be reused."""
    source = "first = 1\nraise RuntimeError('on import')\n"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="on import"):
            execute(source)


def test_the_lines_of_a_program_are_known() -> None:
    """Compilers and tracebacks use them."""
    mixer = load_mixer(HEAD + kind("Mixer", body="self.where = 1 / len([hidden_size])"), SIZES)
    with pytest.raises(ZeroDivisionError) as raised:
        load_mixer(HEAD + kind("Mixer", body="self.where = 1 / 0"), SIZES)

    assert "self.where = 1 / len([hidden_size])" in inspect.getsource(type(mixer))
    assert "self.where = 1 / 0" in "".join(traceback.format_exception(raised.value))


PUBLISHED = """
from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Tuple

import torch
from einops import rearrange
from fla.modules import FusedRMSNormGated, RMSNorm, ShortConvolution
from fla.ops.delta_rule import chunk_delta_rule
from torch import nn
from torch.nn import functional as F
from transformers.processing_utils import Unpack

if TYPE_CHECKING:
    from fla.models.utils import Cache


@torch.compile
def weighted(key: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    return key * beta[..., None]


@torch.compile(mode="max-autotune", fullgraph=True)
def unit(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x.float(), dim=-1).to(torch.bfloat16)


class Mixing(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.proj(hidden_states)


class DeltaNet(nn.Module):
    def __init__(self, mode: str = "chunk", d_model: Optional[int] = None, hidden_size: int = 1024,
                 expand_v: float = 1.0, num_heads: int = 4, conv_size: int = 4, norm_eps: float = 1e-5,
                 **kwargs: Unpack[dict]):
        super().__init__()
        width = d_model or hidden_size
        self.heads = num_heads
        self.qkv = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(3))
        self.conv = nn.ModuleList(ShortConvolution(width, conv_size, activation="silu") for _ in range(3))
        self.beta = nn.Linear(width, num_heads)
        self.mixing = Mixing(width)
        self.norm = RMSNorm(width // num_heads, eps=norm_eps)
        self.gated = FusedRMSNormGated(width, eps=norm_eps)

    def forward(self, hidden_states: torch.Tensor, attention_mask: Optional[torch.Tensor] = None,
                past_key_values: Optional[Cache] = None, use_cache: bool = False,
                **kwargs: Unpack[dict]) -> Tuple[torch.Tensor, None, Optional[Cache]]:
        parts = [conv(linear(hidden_states))[0] for conv, linear in zip(self.conv, self.qkv)]
        q, k, v = (rearrange(x, "b l (h d) -> b l h d", h=self.heads) for x in parts)
        beta = self.beta(hidden_states).sigmoid()
        o, _ = chunk_delta_rule(unit(q), unit(weighted(k, beta)), v.bfloat16(), beta.bfloat16())
        o = rearrange(self.norm(o.to(hidden_states.dtype)), "b l h d -> b l (h d)")
        return self.mixing(self.gated(o, hidden_states)), None, past_key_values
"""


@pytest.mark.parametrize("autocast", [False, True])
def test_a_program_in_the_style_of_published_ones_runs_unchanged(autocast: bool) -> None:
    """Late annotations, compiled functions, names for type checkers only, a helper of its own, bf16 inside."""
    mixer = load_mixer(PUBLISHED, SIZES)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = mixer(torch.randn(2, 9, 16))[0]
    output.float().square().sum().backward()

    assert output.shape == (2, 9, 16)
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())


PUBLISHED_CHUNKS = """
import torch
import torch.nn as nn
from einops import rearrange


def delta_rule_chunkwise(q, k, v, beta, chunk_size=8):
    b, h, l, d = q.shape
    pad = (chunk_size - l % chunk_size) % chunk_size
    q, k, v = (torch.nn.functional.pad(x, (0, 0, 0, pad)) for x in (q, k, v))
    beta = torch.nn.functional.pad(beta, (0, pad))
    v, k_beta = v * beta[..., None], k * beta[..., None]
    q, k, v, k_beta = (rearrange(x, "b h (n c) d -> b h n c d", c=chunk_size) for x in (q, k, v, k_beta))
    upper = torch.triu(torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=q.device), diagonal=0)
    inverse = -(k_beta @ k.transpose(-1, -2)).masked_fill(upper, 0)
    for i in range(1, chunk_size):
        row, above = inverse[..., i, :, None].clone(), inverse[..., :, :i].clone()
        inverse[..., i, :i] = inverse[..., i, :i] + (row * above).sum(-2)
    inverse = inverse + torch.eye(chunk_size, dtype=q.dtype, device=q.device)
    u, w = inverse @ v, inverse @ k_beta
    state, out = q.new_zeros(b, h, d, d), torch.zeros_like(v)
    strict = torch.triu(torch.ones_like(upper), diagonal=1)
    for n in range(q.shape[2]):
        attn = (q[:, :, n] @ k[:, :, n].transpose(-1, -2)).masked_fill_(strict, 0)
        fresh = u[:, :, n] - w[:, :, n] @ state
        out[:, :, n] = q[:, :, n] @ state + attn @ fresh
        state = state + k[:, :, n].transpose(-1, -2) @ fresh
    return rearrange(out, "b h n c d -> b h (n c) d")[:, :, :l]


class DeltaNet(nn.Module):
    def __init__(self, hidden_size=1024, num_heads=4, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.beta = nn.Linear(hidden_size, num_heads)

    def forward(self, hidden_states, **kwargs):
        q, k, v = rearrange(self.qkv(hidden_states), "b l (n h d) -> n b h l d", n=3, h=self.num_heads)
        q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
        beta = rearrange(self.beta(hidden_states).sigmoid(), "b l h -> b h l")
        return rearrange(delta_rule_chunkwise(q, k, v, beta), "b h l d -> b l (h d)")
"""


def test_a_program_with_a_delta_rule_of_its_own_runs_unchanged() -> None:
    """Chunks, masks and a loop in plain torch agree with the rule token by token."""
    mixer = load_mixer(PUBLISHED_CHUNKS, SIZES)
    x = torch.randn(1, 19, 16)
    with torch.no_grad():
        q, k, v = mixer.get_submodule("qkv")(x).view(19, 3, 2, 8).unbind(1)
        q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)
        beta, state, expected = mixer.get_submodule("beta")(x)[0].sigmoid(), torch.zeros(2, 8, 8), []
        for t in range(19):
            wrong = v[t] - torch.einsum("hkv,hk->hv", state, k[t])
            state = state + torch.einsum("hk,hv->hkv", k[t], beta[t, :, None] * wrong)
            expected.append(torch.einsum("hkv,hk->hv", state, q[t]).flatten())

    assert torch.allclose(mixer(x)[0], torch.stack(expected), atol=1e-5)
