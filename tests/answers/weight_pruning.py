"""Answers to the exercises of notebook 02: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

RIGHT = {
    "1: by sorting, in loops": (
        1,
        """
def n_of_m_mask(weight, n, m):
    if weight.shape[1] % m != 0 or n < 1 or n > m:
        raise ValueError("cannot")
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], m):
            order = sorted(range(start, start + m), key=lambda j: -abs(float(weight[row, j])))
            mask[row, order[:n]] = True
    return mask
""",
    ),
    "2: by building all three": (
        2,
        """
csr_wins_below = 4 / (32 * 4)


def cheapest_format(mask):
    from scipy.sparse import csr_matrix
    dense = mask.numpy().astype("float32")
    csr = csr_matrix(dense)
    sizes = [("dense", dense.nbytes),
             ("bitmap", np.packbits(dense.astype(bool)).nbytes + csr.data.nbytes),
             ("csr", csr.data.nbytes + 4 * len(csr.indices) + 4 * len(csr.indptr))]
    return min(sizes, key=lambda pair: pair[1])
""",
    ),
    "3: another plan": (3, "my_plan = {'fc1': 0.966, 'fc2': 0.85, 'fc3': 0.2}"),
}

WRONG = {
    "1: sign ignored": (
        1,
        """
def n_of_m_mask(weight, n, m):
    if weight.shape[1] % m or not 1 <= n <= m:
        raise ValueError
    groups = weight.reshape(-1, m)
    return torch.zeros_like(groups, dtype=torch.bool).scatter(1, groups.topk(n, dim=1).indices, True).view(weight.shape)
""",
    ),
    "1: groups down the columns": (
        1,
        """
def n_of_m_mask(weight, n, m):
    if weight.shape[1] % m or not 1 <= n <= m:
        raise ValueError
    groups = weight.abs().T.reshape(-1, m)
    return torch.zeros_like(groups, dtype=torch.bool).scatter(1, groups.topk(n, dim=1).indices, True).view(weight.T.shape).T
""",
    ),
    "1: the library's mask": (1, "def n_of_m_mask(weight, n, m):\n    return paper.sparsity_mask(weight, 1 - n / m)"),
    "1: the largest of a row, as many as there are groups": (
        1,
        """
def n_of_m_mask(weight, n, m):
    if weight.shape[1] % m or not 1 <= n <= m:
        raise ValueError
    best = weight.abs().topk(n * weight.shape[1] // m, dim=1).indices
    return torch.zeros_like(weight, dtype=torch.bool).scatter(1, best, True)
""",
    ),
    "1: no check of the arguments": (
        1,
        """
def n_of_m_mask(weight, n, m):
    groups = weight.abs().reshape(-1, m)
    return torch.zeros_like(groups, dtype=torch.bool).scatter(1, groups.topk(n, dim=1).indices, True).view(weight.shape)
""",
    ),
    "2: row pointers forgotten": (
        2,
        """
def cheapest_format(mask):
    a, size = int(mask.sum()), mask.numel()
    sizes = {"dense": 4 * size, "bitmap": -(-size // 8) + 4 * a, "csr": 8 * a}
    name = min(sizes, key=sizes.get)
    return name, sizes[name]


csr_wins_below = 1 / 32
""",
    ),
    "2: bits not rounded up to bytes": (
        2,
        """
def cheapest_format(mask):
    a, rows, size = int(mask.sum()), mask.shape[0], mask.numel()
    sizes = {"dense": 4 * size, "bitmap": size // 8 + 4 * a, "csr": 8 * a + 4 * (rows + 1)}
    name = min(sizes, key=sizes.get)
    return name, sizes[name]


csr_wins_below = 1 / 32
""",
    ),
    "2: the share of the bitmap against dense": (
        2,
        """
def cheapest_format(mask):
    a, rows, size = int(mask.sum()), mask.shape[0], mask.numel()
    sizes = {"dense": 4 * size, "bitmap": -(-size // 8) + 4 * a, "csr": 8 * a + 4 * (rows + 1)}
    name = min(sizes, key=sizes.get)
    return name, sizes[name]


csr_wins_below = 31 / 32
""",
    ),
    "2: no share": (
        2,
        """
def cheapest_format(mask):
    a, rows, size = int(mask.sum()), mask.shape[0], mask.numel()
    sizes = {"dense": 4 * size, "bitmap": -(-size // 8) + 4 * a, "csr": 8 * a + 4 * (rows + 1)}
    name = min(sizes, key=sizes.get)
    return name, sizes[name]


csr_wins_below = None
""",
    ),
    "3: one share for all layers": (3, "my_plan = dict(fc1=0.95, fc2=0.95, fc3=0.95)"),
    "3: too few pruned": (3, "my_plan = dict(fc1=0.96, fc2=0.85, fc3=0.5)"),
    "3: the small layers pay": (3, "my_plan = dict(fc1=0.948, fc2=0.97, fc3=0.97)"),
    "3: LAMP, which is to be beaten": (3, "my_plan = plans.lamp(sparse_networks.arena(), 20)"),
}
