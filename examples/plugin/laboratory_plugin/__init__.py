"""An example evaluator, move and probe, in separate modules, since not every service has torch."""
