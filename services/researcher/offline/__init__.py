"""The researcher's mind without a language model: a searcher over typed descriptions of linear-attention mixers."""
