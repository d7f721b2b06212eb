"""The table of mixers: measured trainings of a whole lattice of architectures, to query and to simulate searches on."""
