"""Answers to the exercises of notebook 03: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

RIGHT = {
    "1: image by image, channel by channel": (
        1,
        """
def wholly_silent(batches):
    counts, images = None, 0
    for outputs in batches:
        for image in outputs:
            flags = np.array([float(not bool(channel.any())) for channel in image])
            counts = flags if counts is None else counts + flags
            images += 1
    return torch.tensor(counts / images)
""",
    ),
    "2: by trying": (
        2,
        """
def widest_fc1(conv2, rate):
    one = runs.size(runs.lenet(conv2, 1))
    fits = [f for f in range(1, 3000) if one + (f - 1) * (16 * conv2 + 11) <= 431080 / rate]
    if not fits:
        raise ValueError("no")
    return fits[-1]
""",
    ),
    "3: sums on both sides": (
        3,
        """
def my_score(model, split):
    return model.fc1.weight.detach().abs().sum(1) * model.fc2.weight.detach().abs().sum(0)
""",
    ),
}

WRONG = {
    "1: the mean of the batches' means": (
        1,
        """
def wholly_silent(batches):
    means = [(outputs == 0).flatten(1 if outputs.dim() == 2 else 2) for outputs in batches]
    return torch.stack([(m.all(2) if m.dim() > 2 else m).double().mean(0) for m in means]).mean(0)
""",
    ),
    "1: APoZ": (
        1,
        """
def wholly_silent(batches):
    zeros = positions = 0
    for outputs in batches:
        zero = (outputs == 0).movedim(1, 0).flatten(1)
        zeros, positions = zeros + zero.sum(1), positions + zero.shape[1]
    return zeros.double() / positions
""",
    ),
    "1: everything kept": (
        1,
        """
def wholly_silent(batches):
    outputs = torch.cat(list(batches))
    return (outputs == 0).reshape(*outputs.shape[:2], -1).all(2).double().mean(0)
""",
    ),
    "1: dense neurons forgotten": (
        1,
        """
def wholly_silent(batches):
    silent = images = 0
    for outputs in batches:
        silent = silent + (outputs == 0).all(3).all(2).sum(0)
        images += len(outputs)
    return silent.double() / images
""",
    ),
    "2: biases forgotten": (
        2,
        """
def widest_fc1(conv2, rate):
    widest = int((430500 / rate - 500 - 500 * conv2) // (16 * conv2 + 10))
    if widest < 1:
        raise ValueError
    return widest
""",
    ),
    "2: one column a channel": (
        2,
        """
def widest_fc1(conv2, rate):
    widest = int((431080 / rate - 530 - 501 * conv2) // (conv2 + 11))
    if widest < 1:
        raise ValueError
    return widest
""",
    ),
    "2: rounded, and never refused": (
        2,
        "def widest_fc1(conv2, rate):\n    return round((431080 / rate - 530 - 501 * conv2) / (16 * conv2 + 11))",
    ),
    "3: APoZ": (3, "def my_score(model, split):\n    return -paper.apoz(model, split, ['fc1'])['fc1']"),
    "3: APoZ, the wrong side": (3, "def my_score(model, split):\n    return paper.apoz(model, split, ['fc1'])['fc1']"),
    "3: the L1 norm": (3, "def my_score(model, split):\n    return model.fc1.weight.detach().abs().sum(1)"),
    "3: random": (3, "def my_score(model, split):\n    return torch.rand(500, generator=torch.Generator().manual_seed(0))"),
    "3: mean activation": (
        3,
        "def my_score(model, split):\n    return relus.mean_after_relu(model, split, ['fc1'], lambda outputs: outputs)['fc1']",
    ),
}
