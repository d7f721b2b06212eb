"""A program's text becomes a mixer by fixed rules, and what cannot is refused with the reason."""

import importlib
import inspect
import sys
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest

from services.engineer.construction import BadConstructor, MixerSizes, NoMixer, find_mixer
from services.engineer.program import execute, load_mixer

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
    assert constructor_arguments("emb_dim=5, *, n_embd") == {"emb_dim": 5, "n_embd": 16}
    assert constructor_arguments("hidden_size=64, d_model=None, dim=64, embed_dim=None") == dict.fromkeys(
        ("hidden_size", "d_model", "dim", "embed_dim"), 16
    )


def test_arguments_that_a_part_rejects_are_left_out() -> None:
    """Of **kwargs that are handed on, the part knows its own names alone."""
    part = "class Part(nn.Module):\n    def __init__(self, width, size=64):\n        super().__init__()\n\n"
    body = "self.part = Part(d_model, **options); self.options = options"
    mixer = load_mixer(HEAD + part + kind("Mixer", "d_model, **options", body), SIZES)

    assert vars(mixer)["options"] == {}


def test_a_layer_that_expands_its_features_has_as_many_times_the_heads() -> None:
    """Layers of Mamba-2 require that their heads cover the expanded features."""
    body = "assert num_heads * head_dim == expand * hidden_size; self.num_heads = num_heads"
    arguments = "hidden_size=64, num_heads=4, head_dim=32, expand=2"

    assert vars(load_mixer(HEAD + kind("Mixer", arguments, body), SIZES))["num_heads"] == 4
    with pytest.raises(AssertionError):
        load_mixer(HEAD + kind("Mixer", arguments.replace("=2", "=None"), body.replace("expand *", "2 *")), SIZES)


def test_a_stack_of_layers_has_one_layer() -> None:
    """It stands in the place of one layer."""
    assert constructor_arguments("embed_size, num_layers, n_layers=3") == {
        "embed_size": 16,
        "num_layers": 1,
        "n_layers": 3,
    }


def test_dropout_without_a_default_is_off() -> None:
    """The program states no other value."""
    assert constructor_arguments("d_model, dropout") == {"d_model": 16, "dropout": 0.0}
    assert constructor_arguments("d_model, dropout=0.1")["dropout"] == 0.1


def test_the_number_of_layers_of_the_model_is_given_where_there_is_none() -> None:
    """Initial values of RWKV-7 depend on the layer's place among all."""
    for words, count in {"n": 4, "n=None": 4, "n=12": 12}.items():
        name = "num_hidden_layers"
        assert constructor_arguments(f"d_model, {words.replace('n', name, 1)}")[name] == count


def test_there_are_as_many_heads_of_keys_and_values_where_that_is_the_default() -> None:
    """A program with fewer of them shares each between queries."""
    assert constructor_arguments("dim, num_heads=12, num_kv_heads=12") == {"dim": 16, "num_heads": 2, "num_kv_heads": 2}
    assert constructor_arguments("dim, num_heads=12, num_kv_heads=4")["num_kv_heads"] == 4
    assert constructor_arguments("dim, num_heads=None, num_kv_heads=None")["num_kv_heads"] is None


@pytest.mark.parametrize("words", ["num_tokens, dim", "vocab_size, hidden_size=512"])
def test_a_whole_language_model_is_told_that_it_is_one(words: str) -> None:
    """The name of a size, or a default, would not help it."""
    with pytest.raises(BadConstructor, match=r"whole language model.*name the class of the mixer DeltaNet"):
        load_mixer(HEAD + kind("Model", words), SIZES)


def test_parameters_that_share_memory_are_named() -> None:
    """No optimizer can change one whose elements do, and two are changed by the steps of both."""
    body = "self.decay = nn.Parameter({}.expand(2, 4))"
    load_mixer(HEAD + kind("Mixer", body=body.format("torch.ones(2, 4)")), SIZES)
    with pytest.raises(BadConstructor, match=r"parameter decay share memory.*tensor.clone\(\)"):
        load_mixer(HEAD + kind("Mixer", body=body.format("torch.ones(4)")), SIZES)
    body = "self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4); self.a.weight{}"
    for change in (" = self.b.weight", ".data = self.b.weight.data.clone()"):
        load_mixer(HEAD + kind("Mixer", body=body.format(change)), SIZES)
    with pytest.raises(BadConstructor, match=r"parameters a.weight and b.weight share memory"):
        load_mixer(HEAD + kind("Mixer", body=body.format(".data = self.b.weight.data")), SIZES)
    with pytest.raises(BadConstructor, match=r"parameter a.weight has no values, .* meta"):
        load_mixer(HEAD + kind("Mixer", body="self.a = nn.Linear(4, 4, device='meta')"), SIZES)


@pytest.mark.parametrize(
    ("takes", "message"),
    [
        ("query, key, value", r"line 8: .*missing a required argument: 'key'"),
        ("hidden_states, *, mask", r"line 8: .*missing a required.* argument: 'mask'"),
        ("*, hidden_states", r"line 8: .*too many positional.*write forward\(self, hidden_states"),
        ("hidden_states, *rest, mask=None, **options", ""),
        ("*inputs", ""),
    ],
)
def test_a_forward_that_needs_other_inputs_is_told_what_it_gets(takes: str, message: str) -> None:
    """Python's own message names neither the line nor the remedy."""
    program = HEAD + kind("Mixer", takes=takes).replace(f"return {takes}", "return 0")
    with pytest.raises(BadConstructor, match=message) if message else nullcontext():
        load_mixer(program, SIZES)


def test_an_optional_library_is_absent_even_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program behaves alike on all machines; and confined jobs cannot open files, which raises another error."""
    (tmp_path / "apex.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    assert execute("try:\n    import apex\nexcept ImportError:\n    apex = None\n").apex is None


def test_triton_is_absent_for_programs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch itself may import it. Lines in tracebacks stay those of the text."""
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    attempt = "try:\n    import triton\nexcept ImportError:\n    triton = None\n"

    program = execute(f"from __future__ import annotations\n{attempt}LATER = lambda: 1 / 0\n")
    assert program.triton is None
    assert importlib.import_module("triton") is not None
    with pytest.raises(ZeroDivisionError) as error:
        program.LATER()
    assert traceback.extract_tb(error.tb)[-1].lineno == 6


def test_a_configuration_may_describe_the_whole_model_too() -> None:
    """Published files have one for all their classes."""
    fields = "    dim: int\n    n_layer: int\n    vocab_size: int\n"
    head = f"from dataclasses import dataclass\n{HEAD}@dataclass\nclass Sizes:\n{fields}\n"
    mixer = load_mixer(head + kind("Mixer", "args: Sizes", "self.args = args"), SIZES)

    assert vars(vars(mixer)["args"]) == {"dim": 16, "n_layer": 1, "vocab_size": 256}


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


def test_a_configuration_without_an_annotation_is_the_program_s_only_dataclass() -> None:
    """As in programs in the style of nanoGPT; of several, none is guessed."""
    sizes = "@dataclass\nclass Sizes:\n    n_embd: int = 768\n    n_head: int = 12\n\n"
    mixer = kind("Mixer", "cfg", "self.cfg = cfg")
    head = f"from dataclasses import dataclass\n{HEAD}"

    assert vars(vars(load_mixer(head + mixer + sizes, SIZES))["cfg"]) == {"n_embd": 16, "n_head": 2}
    with pytest.raises(BadConstructor, match="annotate it with a dataclass"):
        load_mixer(head + mixer + sizes + sizes.replace("Sizes", "Others"), SIZES)
    with pytest.raises(BadConstructor, match="requires 'memory'"):
        load_mixer(head + mixer.replace("cfg", "memory") + sizes, SIZES)


def test_scripted_functions_run_in_plain_python() -> None:
    """A check counts their operations, and changes their precision."""
    body = "self.values = [twice(2), thrice(2)]"
    scripted = (
        "@torch.jit.script\ndef twice(x):\n    return f'{x}{x}'\n\n\nthrice = torch.jit.script(lambda x: 3 * x)\n"
    )

    assert vars(load_mixer(HEAD + scripted + kind("Mixer", body=body), SIZES))["values"] == ["22", 6]


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
    """Compilers and tracebacks use them. Form feeds and separators of paragraphs end no line of Python's."""
    head = f"{HEAD}# \f, \x1c, \x85, \u2028\n"
    mixer = load_mixer(head + kind("Mixer", body="self.where = 1 / len([hidden_size])"), SIZES)
    with pytest.raises(ZeroDivisionError) as raised:
        load_mixer(head + kind("Mixer", body="self.where = 1 / 0"), SIZES)

    assert "self.where = 1 / len([hidden_size])" in inspect.getsource(type(mixer))
    assert "\n    self.where = 1 / 0\n" in "".join(traceback.format_exception(raised.value))
