"""Generated from proto/ by `make proto`; never edited. `make check` regenerates it and refuses a difference."""
