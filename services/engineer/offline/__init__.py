"""What the engineer can repair without a language model."""
