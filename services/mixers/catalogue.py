"""Descriptions of the published mixers that a run begins with, by the name they have in the engineer's zoo."""

from collections.abc import Mapping

from services.mixers.description import Features, Inputs, Memory, Mixer, Output, Path

CATALOGUE: Mapping[str, Mixer] = {
    "delta_net": Mixer(),
    "gated_delta_net": Mixer(memory=Memory(decay="mamba"), output=Output(gate="swish")),
    "gla": Mixer(
        inputs=Inputs(convolved="", key_width="half"),
        features=Features(map="identity", norm="none"),
        memory=Memory(rule="linear", decay="channel", write="one"),
        output=Output(gate="swish"),
    ),
    "mamba2": Mixer(
        inputs=Inputs(key_width="shared"),
        features=Features(norm="none"),
        memory=Memory(rule="linear", decay="mamba"),
        output=Output(gate="swish", skip="channel"),
    ),
    "retnet": Mixer(
        inputs=Inputs(convolved=""),
        features=Features(map="identity", norm="none", rotary="full"),
        memory=Memory(rule="linear", decay="retention", write="one"),
        output=Output(gate="swish"),
    ),
    "linear_attention": Mixer(
        inputs=Inputs(convolved=""),
        features=Features(map="elu", norm="none"),
        memory=Memory(rule="linear", write="one", normalised=True),
    ),
    "conv_only": Mixer(
        inputs=Inputs(convolved="v"),
        memory=Memory(rule="none"),
        paths=(Path(kind="convolution", size=8),),
        output=Output(gate="swish"),
    ),
    "delta_net_value_skip": Mixer(output=Output(skip="gated")),
}

ROOT = "delta_net"
