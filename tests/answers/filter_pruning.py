"""Answers to the exercises of notebook 04: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

RIGHT = {
    "1: by vectors": (
        1,
        """
def macs_saved(inputs, widths, positions, kept):
    def macs(n):
        n = np.array(n, dtype=float)
        return float(np.sum(np.concatenate([[inputs], n[:-1]]) * n * np.array(positions)))
    return (macs(widths) - macs(kept)) / macs(widths)
""",
    ),
    "2: by torch.cdist and a list": (
        2,
        """
def most_distinct(weight, keep):
    sums = torch.cdist(weight.double().flatten(1), weight.double().flatten(1)).sum(0).tolist()
    count = max(1, int(len(sums) * keep + 1e-9))
    order = sorted(range(len(sums)), key=lambda j: (-round(sums[j], 6), j))
    return sorted(order[:count])
""",
    ),
    "3: another plan": (3, "my_plan = dict(conv1=0.75, conv2=0.7, conv4=0.75)"),
}

WRONG = {
    "1: the next layer's inputs forgotten": (
        1,
        """
def macs_saved(inputs, widths, positions, kept):
    c = [inputs, *widths[:-1]]
    whole = sum(a * n * p for a, n, p in zip(c, widths, positions))
    return 1 - sum(a * k * p for a, k, p in zip(c, kept, positions)) / whole
""",
    ),
    "1: what goes is added up twice": (
        1,
        """
def macs_saved(inputs, widths, positions, kept):
    c = [inputs, *widths[:-1]]
    whole = sum(a * n * p for a, n, p in zip(c, widths, positions))
    gone = [1 - k / n for k, n in zip(kept, widths)]
    lost = sum(a * n * p * min(1, g + b) for a, n, p, g, b in zip(c, widths, positions, gone, [0, *gone[:-1]]))
    return lost / whole
""",
    ),
    "1: all maps of one size": (
        1,
        """
def macs_saved(inputs, widths, positions, kept):
    def macs(n):
        return sum(c * m for c, m in zip([inputs, *n[:-1]], n))
    return 1 - macs(list(kept)) / macs(list(widths))
""",
    ),
    "2: the replaceable stay": (
        2,
        """
def most_distinct(weight, keep):
    flat = weight.detach().double().flatten(1)
    return keeping.strongest(-torch.cdist(flat, flat).sum(1), keep)
""",
    ),
    "2: by the norm": (
        2,
        """
def most_distinct(weight, keep):
    return keeping.strongest(paper.filter_norms(weight, 2), keep)
""",
    ),
    "2: L1 distances": (
        2,
        """
def most_distinct(weight, keep):
    flat = weight.detach().double().flatten(1)
    return keeping.strongest(torch.cdist(flat, flat, p=1).sum(1), keep)
""",
    ),
    "2: distance to the median filter": (
        2,
        """
def most_distinct(weight, keep):
    flat = weight.detach().double().flatten(1)
    return keeping.strongest((flat - flat.median(0).values).norm(dim=1), keep)
""",
    ),
    "2: distance to the mean filter": (
        2,
        """
def most_distinct(weight, keep):
    flat = weight.detach().double().flatten(1)
    return keeping.strongest((flat - flat.mean(0)).norm(dim=1), keep)
""",
    ),
    "2: in the order of their distances": (
        2,
        """
def most_distinct(weight, keep):
    flat = weight.detach().double().flatten(1)
    return torch.cdist(flat, flat).sum(1).topk(max(1, int(len(flat) * keep + 1e-9))).indices
""",
    ),
    "3: one share for all layers": (3, "my_plan = dict(lesson.EVERY_LAYER)"),
    "3: over the budget": (3, "my_plan = dict(conv1=0.7)"),
    "3: the shares that are pruned": (3, "my_plan = dict(conv1=0.3, conv2=0.3, conv4=0.2)"),
    "3: the last layers, as in the paper's plan A": (3, "my_plan = dict(conv1=0.7, conv5=0.8, conv6=0.7)"),
}
