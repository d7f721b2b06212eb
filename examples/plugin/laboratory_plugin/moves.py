"""A move of the offline search."""

from asi_arch.moves import Move, setting

PLAIN_READ = Move(
    name="plain_read",
    what="an ungated read that is normalised and mixed over heads",
    why="heads that agree can add up what they read",
    word="PlainRead",
    change=setting(output={"gate": "none", "norm": "rms", "mixing": "static"}),
    adds=("output-normalisation",),
)
