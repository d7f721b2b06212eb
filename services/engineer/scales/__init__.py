"""The five scales of an experiment, as data: `load_scale("tiny")`."""

from services.engineer.scales.scale import SCALES, Scale, ScaleError, load_scale

__all__ = ["SCALES", "Scale", "ScaleError", "load_scale"]
