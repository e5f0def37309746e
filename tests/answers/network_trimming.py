"""Answers to the exercises of notebook 03: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

RIGHT = {
    "1: image by image, channel by channel": (
        1,
        """
def zero_everywhere(batches):
    counts, images = None, 0
    for outputs in batches:
        for image in outputs:
            flags = np.array([float(not bool(channel.any())) for channel in image])
            counts = flags if counts is None else counts + flags
            images += 1
    return torch.tensor(counts / images)
""",
    ),
    "2: class by class, channel by channel": (
        2,
        """
def lowest_class_apoz(outputs, labels):
    lowest = [1.0] * outputs.shape[1]
    for label in set(labels.tolist()):
        of_class = outputs[labels == label]
        for c in range(outputs.shape[1]):
            lowest[c] = min(lowest[c], (of_class[:, c] == 0).float().mean().item())
    return torch.tensor(lowest, dtype=torch.float64)
""",
    ),
    "3: norms on both sides": (
        3,
        """
def my_score(model, split):
    return model.fc1.weight.detach().norm(dim=1) * model.fc2.weight.detach().norm(dim=0)
""",
    ),
}

WRONG = {
    "1: the mean of the batches' means": (
        1,
        """
def zero_everywhere(batches):
    means = [(outputs == 0).flatten(1 if outputs.dim() == 2 else 2) for outputs in batches]
    return torch.stack([(m.all(2) if m.dim() > 2 else m).double().mean(0) for m in means]).mean(0)
""",
    ),
    "1: APoZ": (
        1,
        """
def zero_everywhere(batches):
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
def zero_everywhere(batches):
    outputs = torch.cat(list(batches))
    return (outputs == 0).reshape(*outputs.shape[:2], -1).all(2).double().mean(0)
""",
    ),
    "1: dense neurons forgotten": (
        1,
        """
def zero_everywhere(batches):
    zero = images = 0
    for outputs in batches:
        zero = zero + (outputs == 0).all(3).all(2).sum(0)
        images += len(outputs)
    return zero.double() / images
""",
    ),
    "2: APoZ over all images": (
        2,
        """
def lowest_class_apoz(outputs, labels):
    return (outputs == 0).double().transpose(0, 1).flatten(1).mean(1)
""",
    ),
    "2: the mean over classes": (
        2,
        """
def lowest_class_apoz(outputs, labels):
    zeros = (outputs == 0).double().reshape(*outputs.shape[:2], -1).mean(2)
    return torch.stack([zeros[labels == label].mean(0) for label in labels.unique()]).mean(0)
""",
    ),
    "2: the largest": (
        2,
        """
def lowest_class_apoz(outputs, labels):
    zeros = (outputs == 0).double().reshape(*outputs.shape[:2], -1).mean(2)
    return torch.stack([zeros[labels == label].mean(0) for label in labels.unique()]).max(0).values
""",
    ),
    "2: labels are taken for 0 to 9": (
        2,
        """
def lowest_class_apoz(outputs, labels):
    zeros = (outputs == 0).double().reshape(*outputs.shape[:2], -1).mean(2)
    return torch.stack([zeros[labels == label].mean(0) for label in range(10)]).min(0).values
""",
    ),
    "2: images on which a channel is wholly zero": (
        2,
        """
def lowest_class_apoz(outputs, labels):
    zeros = (outputs == 0).reshape(*outputs.shape[:2], -1).all(2).double()
    return torch.stack([zeros[labels == label].mean(0) for label in labels.unique()]).min(0).values
""",
    ),
    "3: APoZ": (3, "def my_score(model, split):\n    return -paper.apoz(model, split, ['fc1'])['fc1']"),
    "3: APoZ, the wrong side": (3, "def my_score(model, split):\n    return paper.apoz(model, split, ['fc1'])['fc1']"),
    "3: the L1 norm": (3, "def my_score(model, split):\n    return model.fc1.weight.detach().abs().sum(1)"),
    "3: random": (3, "def my_score(model, split):\n    return torch.rand(500, generator=torch.Generator().manual_seed(0))"),
    "3: mean activation": (3, "def my_score(model, split):\n    return runs.scores(model, split, 'mean activation')['fc1']"),
    "3: the model is changed": (
        3,
        """
def my_score(model, split):
    with torch.no_grad():
        return model.fc1.weight.abs_().sum(1) * model.fc2.weight.abs_().sum(0)
""",
    ),
    "3: one number too many": (
        3,
        "def my_score(model, split):\n    return model.fc1.weight.detach().abs() @ torch.ones(800, 2)",
    ),
}
