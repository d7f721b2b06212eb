"""The commands of `asi-arch`, a few to a file."""
