"""Warm-up–stable–decay."""


def learning_rate(step: int, steps: int, *, peak: float, warmup: float, decay: float, final: float) -> float:
    """The learning rate of optimiser step `step` (from 0) of `steps`.

    Linear from peak/n to the peak over the first `warmup` share of the steps, constant, then linear to `final` × peak
    over the last `decay` share (Hu et al. 2024, arXiv:2404.06395, with linear decay).
    """
    rising, falling = round(warmup * steps), round(decay * steps)
    if step < rising:
        return peak * (step + 1) / rising
    if step < steps - falling:
        return peak
    left = (steps - step) / (falling + 1)
    return peak * (final + (1 - final) * left)
