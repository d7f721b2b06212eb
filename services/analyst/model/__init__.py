"""The analyst behind a language model."""
