"""The commands of `asi-arch`: a file for each, or for a few that differ in a word; `cli` says which holds which."""
