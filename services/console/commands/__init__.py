"""The commands of `asi-arch`. Commands on one subject, such as `pause` and `resume`, share a file; `cli` lists them."""
