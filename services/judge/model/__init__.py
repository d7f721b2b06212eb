"""The judge behind a language model."""
