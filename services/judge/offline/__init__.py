"""The judge without a language model: the rubric computed from measurements."""
