"""Answers to the exercises of notebook 06: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

WIDTHS = """
net = env.baseline("vgg-small")
some = env.splits.train.take(scale.pick(smoke=100, lesson=500, paper=5_000), 0).images
my_plan, places = {}, scale.pick(smoke=20, lesson=10, paper=10)
for name, layer in choices.layers_of(net, ["conv2", "conv3", "conv4"], some, places, seed=0).items():
    w, keep = net.get_submodule(name).weight.detach().flatten(2), 1
    while least_squares.explained(layer.%s, least_squares.refit(layer.seen, %s)[0]) < 0.9:
        keep += 1
    my_plan[name] = keep + %d
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
    "3: counting up": (3, WIDTHS % ("unseen", "paper.choose(layer.seen, w, keep)", 0)),
    "3: one too many": (3, WIDTHS % ("unseen", "paper.choose(layer.seen, w, keep)", 1)),
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
    "3: half of each": (3, "my_plan = dict(conv2=16, conv3=16, conv4=32)"),
    "3: judged on what it was fitted to, and two spared": (3, WIDTHS % ("seen", "paper.choose(layer.seen, w, keep)", -2)),
    "3: the first ones": (3, WIDTHS % ("unseen", "range(keep)", 0)),
}
