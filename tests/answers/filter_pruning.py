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
    "3: one after the other": (
        3,
        """
def uniform_plan(model, image, budget):
    whole = cost.count(model, image).MACs.sum()
    for percent in range(100, 4, -1):
        plan = {layer: percent / 100 for layer in paper.prunable_layers(model, image)}
        narrow = surgery.narrow(model, paper.select_filters(model, plan, example_input=image), image)
        if cost.count(narrow, image).MACs.sum() <= budget * whole:
            return plan
    raise ValueError("budget")
""",
    ),
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
    "3: the share that stays is the budget": (
        3,
        """
def uniform_plan(model, image, budget):
    if budget < 0.01:
        raise ValueError("budget")
    return dict.fromkeys(paper.prunable_layers(model, image), round(budget, 2))
""",
    ),
    "3: MACs fall with the square of the width": (
        3,
        """
def uniform_plan(model, image, budget):
    if budget < 0.01:
        raise ValueError("budget")
    return dict.fromkeys(paper.prunable_layers(model, image), int(100 * budget**0.5) / 100)
""",
    ),
    "3: parameters counted instead of MACs": (
        3,
        """
def uniform_plan(model, image, budget):
    layers = paper.prunable_layers(model, image)
    whole = cost.count(model, image).weights.sum()
    for percent in range(100, 4, -1):
        plan = dict.fromkeys(layers, percent / 100)
        narrow = surgery.narrow(model, paper.select_filters(model, plan, example_input=image), image)
        if cost.count(narrow, image).weights.sum() <= budget * whole:
            return plan
    raise ValueError("budget")
""",
    ),
    "3: the output layer forgotten": (
        3,
        """
def uniform_plan(model, image, budget):
    layers = paper.prunable_layers(model, image)
    whole = cost.count(model, image).loc[layers].MACs.sum()
    for percent in range(100, 4, -1):
        plan = dict.fromkeys(layers, percent / 100)
        narrow = surgery.narrow(model, paper.select_filters(model, plan, example_input=image), image)
        if cost.count(narrow, image).loc[layers].MACs.sum() <= budget * whole:
            return plan
    raise ValueError("budget")
""",
    ),
    "3: the first layer is left out": (
        3,
        """
def uniform_plan(model, image, budget):
    layers = paper.prunable_layers(model, image)[1:]
    whole = cost.count(model, image).MACs.sum()
    for percent in range(100, 4, -1):
        plan = dict.fromkeys(layers, percent / 100)
        narrow = surgery.narrow(model, paper.select_filters(model, plan, example_input=image), image)
        if cost.count(narrow, image).MACs.sum() <= budget * whole:
            return plan
    raise ValueError("budget")
""",
    ),
}
