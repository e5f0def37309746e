"""Answers to the exercises of notebook 06: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

GREEDY = """
weight, seen = lesson.arena()
my_channels = []
while len(my_channels) < 12:
    errors = {}
    for i in set(range(64)) - set(my_channels):
        fitted, _ = least_squares.refit(seen["train"], [*my_channels, i])
        errors[i] = 1 - least_squares.explained(seen["%s"], fitted)
    my_channels.append(min(errors, key=errors.get))
"""

RIGHT = {
    "1: by residuals, one regression a channel": (
        1,
        """
def forward_selection(gram, products, keep):
    g, b, chosen = gram.numpy().copy(), products.numpy().copy(), []
    for _ in range(keep):
        gains = [-1.0 if i in chosen else b[i] ** 2 / g[i, i] for i in range(len(b))]
        i = int(np.argmax(gains))
        chosen.append(i)
        b = b - g[:, i] * b[i] / g[i, i]  # what channel i contributes is taken out of all others
        g = g - np.outer(g[:, i], g[i]) / g[i, i]
    return np.sort(chosen)
""",
    ),
    "2: into the shift where there is one": (
        2,
        """
def fold_bias(layer, norm):
    with torch.no_grad():
        if norm.bias is None:
            norm.running_mean.sub_(layer.bias)
        else:
            norm.bias.add_(norm.weight * layer.bias / (norm.running_var + norm.eps).sqrt())
    layer.bias = None
""",
    ),
    "3: forward, judged on the validation images": (3, GREEDY % "validation"),
    "3: the LASSO's choice, improved by exchanges": (
        3,
        """
def _error(channels):
    return lesson.tournament(channels, "train")


my_channels = list(lesson.rivals()[choices.LASSO])
for place in range(12):
    others = [i for i in range(64) if i not in my_channels]
    tried = [[*my_channels[:place], i, *my_channels[place + 1 :]] for i in others] + [my_channels]
    my_channels = min(tried, key=_error)
""",
    ),
}

WRONG = {
    "1: each channel by itself": (
        1,
        """
def forward_selection(gram, products, keep):
    gains = products**2 / gram.diagonal()
    return sorted(gains.topk(keep).indices.tolist())
""",
    ),
    "1: the largest product with the residual, whatever the channel's size": (
        1,
        """
def forward_selection(gram, products, keep):
    chosen = []
    for _ in range(keep):
        left = products.clone()
        if chosen:
            left -= gram[:, chosen] @ torch.linalg.solve(gram[chosen][:, chosen], products[chosen])
        left[chosen] = 0
        chosen.append(int(left.abs().argmax()))
    return sorted(chosen)
""",
    ),
    "1: backwards, from all channels": (
        1,
        """
def forward_selection(gram, products, keep):
    chosen = list(range(len(products)))
    while len(chosen) > keep:
        rests = [[i for i in chosen if i != gone] for gone in chosen]
        chosen = max(rests, key=lambda s: float(products[s] @ torch.linalg.solve(gram[s][:, s], products[s])))
    return chosen
""",
    ),
    "2: the wrong sign": (
        2,
        """
def fold_bias(layer, norm):
    norm.running_mean += layer.bias.detach()
    layer.bias = None
""",
    ),
    "2: into the shift without the scale": (
        2,
        """
def fold_bias(layer, norm):
    norm.bias.data += layer.bias.detach()
    layer.bias = None
""",
    ),
    "2: only dropped": (
        2,
        """
def fold_bias(layer, norm):
    layer.bias = None
""",
    ),
    "3: the largest contributions": (3, "my_channels = lesson.rivals()[choices.LARGEST]"),
    "3: what the LASSO keeps": (3, "my_channels = lesson.rivals()[choices.LASSO]"),
    "3: forward, by beta alone": (
        3,
        """
weight, seen = lesson.arena()
gram, products = paper.contributions(seen["train"], weight)
my_channels = []
while len(my_channels) < 12:
    gains = {}
    for i in sorted(set(range(64)) - set(my_channels)):
        s = [*my_channels, i]
        gains[i] = float(products[s] @ torch.linalg.solve(gram[s][:, s], products[s]))
    my_channels.append(max(gains, key=gains.get))
""",
    ),
    "3: thirteen of them": (3, GREEDY % "train" + "my_channels.append(min(set(range(64)) - set(my_channels)))"),
}
