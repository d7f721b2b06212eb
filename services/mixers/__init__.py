"""Typed descriptions of linear-attention mixers: the moves that change them, the programs that they render to."""
