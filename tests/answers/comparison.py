"""Answers to the exercises of notebook 08: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

RIGHT = {
    "1: line by line, with an interval of its own": (
        1,
        """
def judge(table, arm, other, margin):
    from scipy.stats import t
    ours = {line.network: line for line in table[table.arm == arm].itertuples()}
    theirs = {line.network: line for line in table[table.arm == other].itertuples()}
    lines = [*ours.values(), *theirs.values()]
    macs = sorted(line.MACs for line in lines)
    if len({line.epochs for line in lines}) != 1 or macs[-1] / macs[0] > 1.05:
        return "unequal budgets"
    if "test" in [line.chosen_on for line in lines]:
        return "chosen on test images"
    pairs = [ours[n].accuracy - theirs[n].accuracy for n in ours if n in theirs]
    if len(pairs) < 2:
        return "undecided here"
    half = t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / len(pairs) ** 0.5
    low, high = np.mean(pairs) - half, np.mean(pairs) + half
    return "holds" if low > margin else "does not hold here" if high < margin else "undecided here"
""",
    ),
    "2: doubled, then bisected": (
        2,
        """
def networks_needed(std, effect, margin):
    import scipy.stats
    def enough(n):
        return effect - scipy.stats.t.ppf(0.975, n - 1) * std / n ** 0.5 > margin
    if not effect > margin:
        return None
    if enough(2):
        return 2
    low, high = 2, 4
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
""",
    ),
    "3: the largest contributions, in multiples of 8": (
        3,
        """
def my_quarter(model, images):
    widths = {layer: {32: 16, 64: 32, 128: 56}[len(getattr(model, layer).weight)] for layer in [f"conv{n}" for n in range(1, 7)]}
    return dict(one_shot.by_fit("largest contribution", model, widths, images, 10, 3).state_dict())
""",
    ),
}

WRONG = {
    "1: paired by the order of the lines": (
        1,
        """
def judge(table, arm, other, margin):
    ours, theirs = table[table.arm == arm], table[table.arm == other]
    both = pd.concat([ours, theirs])
    if both.epochs.nunique() > 1 or both.MACs.max() > 1.05 * both.MACs.min():
        return "unequal budgets"
    if (both.chosen_on == "test").any():
        return "chosen on test images"
    return evidence.verdict([a - b for a, b in zip(ours.accuracy, theirs.accuracy)], margin=margin).label
""",
    ),
    "1: not paired": (
        1,
        """
def judge(table, arm, other, margin):
    from scipy.stats import ttest_ind
    ours, theirs = table[table.arm == arm], table[table.arm == other]
    both = pd.concat([ours, theirs])
    if both.epochs.nunique() > 1 or both.MACs.max() > 1.05 * both.MACs.min():
        return "unequal budgets"
    if (both.chosen_on == "test").any():
        return "chosen on test images"
    ends = ttest_ind(ours.accuracy, theirs.accuracy).confidence_interval(0.95)
    return "holds" if ends.low > margin else "does not hold here" if ends.high < margin else "undecided here"
""",
    ),
    "1: test images come first": (
        1,
        """
def judge(table, arm, other, margin):
    ours, theirs = (table[table.arm == name].set_index("network") for name in (arm, other))
    both = pd.concat([ours, theirs])
    if (both.chosen_on == "test").any():
        return "chosen on test images"
    if both.epochs.nunique() > 1 or both.MACs.max() > 1.05 * both.MACs.min():
        return "unequal budgets"
    differences = (ours.accuracy - theirs.accuracy).dropna()
    return evidence.verdict(differences, margin=margin).label if len(differences) else "undecided here"
""",
    ),
    "1: the margin is forgotten": (
        1,
        """
def judge(table, arm, other, margin):
    ours, theirs = (table[table.arm == name].set_index("network") for name in (arm, other))
    both = pd.concat([ours, theirs])
    if both.epochs.nunique() > 1 or both.MACs.max() > 1.05 * both.MACs.min():
        return "unequal budgets"
    if (both.chosen_on == "test").any():
        return "chosen on test images"
    differences = (ours.accuracy - theirs.accuracy).dropna()
    return evidence.verdict(differences).label if len(differences) else "undecided here"
""",
    ),
    "2: the normal distribution": (
        2,
        """
def networks_needed(std, effect, margin):
    return None if effect <= margin else max(2, int(np.ceil((1.96 * std / (effect - margin)) ** 2)))
""",
    ),
    "2: above zero, not above the margin": (
        2,
        """
def networks_needed(std, effect, margin):
    from scipy.stats import t
    if effect <= margin:
        return None
    return next(n for n in range(2, 10_000) if effect - t.ppf(0.975, n - 1) * std / n ** 0.5 > 0)
""",
    ),
    "2: n degrees of freedom": (
        2,
        """
def networks_needed(std, effect, margin):
    from scipy.stats import t
    if effect <= margin:
        return None
    return next(n for n in range(2, 10_000) if effect - t.ppf(0.975, n) * std / n ** 0.5 > margin)
""",
    ),
    "3: the L1 norm, nothing repaired": (
        3,
        """
def my_quarter(model, images):
    return lesson.cut("L1", model, equal_shapes.for_macs(model, 4, images.images[:1]), images).state_dict()
""",
    ),
    "3: half of the MACs": (
        3,
        """
def my_quarter(model, images):
    return lesson.cut("LASSO", model, equal_shapes.for_macs(model, 2, images.images[:1]), images).state_dict()
""",
    ),
    "3: random choice": (
        3,
        """
def my_quarter(model, images):
    return lesson.cut("random", model, equal_shapes.for_macs(model, 4, images.images[:1]), images).state_dict()
""",
    ),
}
