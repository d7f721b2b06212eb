"""The researcher's mind behind a language model."""
