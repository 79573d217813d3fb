"""Do drawn values follow a distribution?"""

from scipy.stats import chisquare
from torch import Tensor

__all__ = ["fits"]


def fits(drawn: Tensor, probability: Tensor, least: float = 1e-4) -> bool:
    """Chi-square test of int64 values against `probability` [K]; no value of probability 0 may occur. p-value above `least`.

    Values expected fewer than five times are pooled.
    """
    expected = (probability.double() / probability.double().sum() * drawn.numel()).flatten()
    observed = drawn.flatten().bincount(minlength=len(expected)).double()
    if len(observed) > len(expected) or bool((observed[expected == 0] > 0).any()):
        return False
    rare = expected < 5
    groups = [(observed[~rare], expected[~rare])]
    if bool((expected[rare].sum() >= 5).item()):
        groups.append((observed[rare].sum(0, keepdim=True), expected[rare].sum(0, keepdim=True)))
    counts, means = ([value for pair in column for value in pair.tolist()] for column in zip(*groups, strict=True))
    if len(counts) < 2:
        return counts == means or abs(counts[0] - means[0]) <= 5
    return chisquare(counts, [mean * sum(counts) / sum(means) for mean in means]).pvalue > least
