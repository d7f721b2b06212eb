"""An evaluator, a move and a probe of one's own, each in a module of its own: not every service has torch."""
