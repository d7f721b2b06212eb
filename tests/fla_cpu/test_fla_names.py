"""The modules that a program imports as fla after `install()`, in a new process."""

import subprocess
import sys

INSTALLED = "import torch; from services import fla_cpu; fla_cpu.install(); fla_cpu.install()\n"


def python(program: str) -> subprocess.CompletedProcess[str]:
    """A new interpreter, since registered names stay until it ends."""
    return subprocess.run([sys.executable, "-c", INSTALLED + program], capture_output=True, text=True, check=False)


def test_every_usual_way_to_import_finds_our_parts() -> None:
    """Flat, by package and by file; nothing of the installed fla, triton or transformers is loaded."""
    done = python(
        "from fla.ops import chunk_delta_rule, chunk_kda, fused_recurrent_gla, parallel_retention\n"
        "from fla.ops.delta_rule.chunk import chunk_delta_rule as other\n"
        "from fla.modules import FusedRMSNormGated, RMSNorm, RotaryEmbedding, ShortConvolution\n"
        "from fla.modules.l2norm import l2_norm\n"
        "from fla.modules.norm.fused_norm_gate import rms_norm_gated\n"
        "from fla.modules.convolution import causal_conv1d\n"
        "from fla.modules.token_shift import token_shift\n"
        "from fla.modules.activations import ACT2FN, swiglu\n"
        "from fla.layers.utils import get_layer_cache, get_unpad_data, pad_input\n"
        "from fla.models.utils import Cache\n"
        "from fla.utils import input_guard\n"
        "from fla.ops import chunk_gsa, parallel_based, parallel_rebased, chunk_rwkv6, chunk_dplr_delta_rule\n"
        "from fla.ops.attn.decoding import attn_decoding_one_step\n"
        "from fla.ops.gsa.gate import fused_additive_gate\n"
        "from fla.ops.kda.gate import fused_kda_gate\n"
        "from fla.ops.rwkv7.channel_mixing import channel_mixing_rwkv7\n"
        "from fla.ops.rwkv7.fused_k_update import fused_k_rwkv7\n"
        "from fla.ops.generalized_delta_rule.dplr import fused_recurrent_dplr_delta_rule\n"
        "from fla.layers.rwkv6 import LoRA\n"
        "from fla.modules.layernorm_gated import RMSNormGated\n"
        "from fla.models.cache_utils import Cache as Other\n"
        "from fla.ops.utils.index import prepare_cu_seqlens_from_mask\n"
        "from transformers.processing_utils import Unpack\n"
        "from transformers.activations import ACT2FN as functions\n"
        "from transformers.cache_utils import Cache as Another\n"
        "from transformers.utils import logging\n"
        "assert functions is ACT2FN and Another is Cache\n"
        "logging.get_logger(__name__).warning_once('%s is slow', 'this path')\n"
        "import fla, importlib.util, sys\n"
        "assert fla.ops.delta_rule.chunk_delta_rule is chunk_delta_rule is other\n"
        "assert chunk_delta_rule.__module__.startswith('services.fla_cpu')\n"
        "assert not hasattr(fla.ops, 'chunk_ttt_linear'), 'asking is no error'\n"
        "assert importlib.util.find_spec('nowhere_at_all') is None, 'nor is searching elsewhere'\n"
        "assert importlib.util.find_spec('transformers').origin is None, 'as libraries look for it'\n"
        "assert not {'triton', 'einops', 'transformers.models', 'fla.backends'} & set(sys.modules)\n"
    )

    assert done.returncode == 0, done.stderr


def test_a_missing_part_is_named_with_the_available_ones() -> None:
    """One sentence that tells a program's author what to use."""
    programs = {
        "from fla.layers import DeltaNet": "fla.layers.DeltaNet",
        "from fla.ops import chunk_ttt_linear": "fla.ops.chunk_ttt_linear",
        "from fla.ops.nsa.parallel import parallel_nsa": "fla.ops.nsa",
        "import fla.modules; fla.modules.BitLinear": "fla.modules.BitLinear",
        "from transformers import AutoModel": "transformers.AutoModel",
    }
    done = python(
        f"for program in {list(programs)}:\n"
        "    try:\n        exec(program)\n"
        "    except (ImportError, AttributeError) as error:\n        print(error)\n"
    )
    lines = done.stdout.splitlines()

    assert [line.partition(" is not available ")[0] for line in lines] == list(programs.values()), done.stderr
    assert all("offers:" in line for line in lines)
    assert [line for line in lines if "copy the layer's class into the program" in line] == lines[:1]
    assert all(len(line) < 700 for line in lines), "the program's line, which follows, would be cut off"


def test_a_module_of_an_earlier_version_is_named_by_its_new_name() -> None:
    """Layers of fla 0.1 import it."""
    done = python("from fla.ops.common.utils import prepare_position_ids\n")

    assert done.stderr.endswith("fla.ops.common is not available: fla.ops.common.utils is fla.ops.utils now\n")
