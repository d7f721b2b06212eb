"""The analyst without a language model: sentences about measured differences."""
