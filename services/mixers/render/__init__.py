"""Descriptions rendered as programs that a person could have written."""

from services.mixers.render.program import render

__all__ = ["render"]
