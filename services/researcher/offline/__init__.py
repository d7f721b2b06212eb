"""The researcher's mind without a language model: a search over typed descriptions of linear-attention mixers."""
