"""Answers to the exercises of notebook 07: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

RIGHT = {
    "1: all pairs, one by one": (
        1,
        """
def best_swap(contributions, removed):
    def cost(channels):
        return contributions[:, sorted(channels)].double().sum(1).square().sum().item()

    best, least = set(removed), cost(removed)
    for back in removed:
        for goes in range(contributions.shape[1]):
            if goes not in removed and cost(set(removed) - {back} | {goes}) < least * (1 - 1e-9):
                best, least = set(removed) - {back} | {goes}, cost(set(removed) - {back} | {goes})
    return np.array(sorted(best))
""",
    ),
    "2: the penalty as samples of their own": (
        2,
        """
def rescale_gently(contributions, targets, strength):
    n = contributions.shape[1]
    rows = torch.cat([contributions.double(), strength**0.5 * torch.eye(n, dtype=torch.float64)])
    return torch.linalg.lstsq(rows, torch.cat([targets.double(), torch.full((n,), strength**0.5).double()])).solution


my_strength = 1.0
""",
    ),
    "3: another setting": (3, "my_keep = dict(conv1=20, conv2=22, conv3=44, conv4=50, conv5=128, conv6=40)"),
}

WRONG = {
    "1: the worst comes back, then the best goes": (
        1,
        """
def best_swap(contributions, removed):
    def cost(channels):
        return contributions[:, sorted(channels)].double().sum(1).square().sum().item()

    left = min((set(removed) - {back} for back in removed), key=cost)
    options = [left | {goes} for goes in range(contributions.shape[1]) if goes not in left]
    return sorted(min(options, key=cost))
""",
    ),
    "1: squares before sums": (
        1,
        """
def best_swap(contributions, removed):
    energy = contributions.double().square().sum(0)
    kept = [c for c in range(len(energy)) if c not in removed]
    back, goes = max(removed, key=lambda c: energy[c]), min(kept, key=lambda c: energy[c])
    return sorted(set(removed) - {back} | {goes}) if energy[goes] < energy[back] else sorted(removed)
""",
    ),
    "1: always swaps": (
        1,
        """
def best_swap(contributions, removed):
    pairs = [(a, b) for a in removed for b in range(contributions.shape[1]) if b not in removed]
    sets = [sorted(set(removed) - {a} | {b}) for a, b in pairs]
    return min(sets, key=lambda s: contributions[:, s].double().sum(1).square().sum().item())
""",
    ),
    "2: pulled to zero": (
        2,
        """
def rescale_gently(contributions, targets, strength):
    x, y = contributions.double(), targets.double()
    return torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1], dtype=torch.float64), x.T @ y)


my_strength = 1.0
""",
    ),
    "2: mean instead of sum": (
        2,
        """
def rescale_gently(contributions, targets, strength):
    x, y = contributions.double(), targets.double()
    gram = x.T @ x / len(x) + strength * torch.eye(x.shape[1], dtype=torch.float64)
    return 1 + torch.linalg.solve(gram, x.T @ (y - x.sum(1)) / len(x))


my_strength = 1.0
""",
    ),
    "2: halfway between": (
        2,
        """
def rescale_gently(contributions, targets, strength):
    x, y = contributions.double(), targets.double()
    return (torch.linalg.lstsq(x, y[:, None]).solution[:, 0] + strength) / (1 + strength)


my_strength = 1.0
""",
    ),
    "2: the factors are hardly trusted less": (
        2,
        """
def rescale_gently(contributions, targets, strength):
    x, y = contributions.double(), targets.double()
    gram = x.T @ x + strength * torch.eye(x.shape[1], dtype=torch.float64)
    return 1 + torch.linalg.solve(gram, x.T @ (y - x.sum(1)))


my_strength = 0.001
""",
    ),
    "3: too many operations": (3, "my_keep = dict(conv1=30, conv2=30, conv3=60, conv4=60, conv5=120, conv6=120)"),
    "3: one share for all layers": (3, "my_keep = dict(conv1=22, conv2=22, conv3=44, conv4=44, conv5=89, conv6=89)"),
    "3: cut where the MACs are": (3, "my_keep = dict(conv1=24, conv2=14, conv3=58, conv4=30, conv5=100, conv6=80)"),
}
