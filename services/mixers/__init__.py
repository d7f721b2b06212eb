"""Typed descriptions of linear-attention mixers, the moves that change them, and the programs that they render to.

A description is a value; `moves` are named changes of it and `render` writes it as readable Python. Which move to make
is decided by the researcher and by `services/table`; programs are trained by the engineer.
"""
