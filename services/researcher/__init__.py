"""Turns a seat into a proposal: draws a parent, drafts a program, checks that it is new and sound, publishes it.

Drafts come from a language model (`model_proposer`) or from the offline search over descriptions (`offline`). Moves and
rendering live in `services/mixers`, checks and training in the engineer, the choice of parents in `services/domain`.
"""
