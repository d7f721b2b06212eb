"""Turns a seat into a proposal: draws a parent, drafts a program, checks that it is new and sound, publishes it.

Drafts come from a language model (`model_proposer`), from a search over typed descriptions of mixers
(`offline_proposer`, `offline_search`), or from either by seat (`mixed_proposer`). Moves and rendering live in
`services/mixers`, checks and training in the engineer, the choice of parents in `services/domain`.
"""
