"""Answers to the exercises of notebook 00: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

RIGHT = {
    "1: counted tile by tile": (
        1,
        """
def best_tile(n, cache):
    t = n
    while t and (n % t or 12 * t * t > cache):
        t -= 1
    if t == 0:
        raise ValueError("cache")
    moved = 0
    for row in range(0, n, t):
        for column in range(0, n, t):
            for inner in range(0, n, t):
                moved += 2 * 4 * t * t
            moved += 4 * t * t
    return t, moved
""",
    ),
    "2: doubled, then bisected": (
        2,
        """
def smallest_batch(n, c, ridge, bits):
    def enough(b):
        return b * n * c >= ridge * (n * c * bits / 8 + 4 * b * (n + c))
    if n * c <= 4 * ridge * (n + c):
        return None
    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
""",
    ),
    "3: from several random starts, by distances": (
        3,
        """
def compress(weight, bits):
    values, best = weight.flatten().double(), None
    for seed in range(4):
        chosen = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))[: 2**bits]
        codebook = values[chosen].clone()
        for _ in range(40):
            codes = (values[:, None] - codebook).abs().argmin(1)
            codebook = torch.stack([values[codes == k].mean() if (codes == k).any() else v for k, v in enumerate(codebook)])
        codes = (values[:, None] - codebook).abs().argmin(1)
        error = float((codebook[codes] - values).square().mean())
        if best is None or error < best[0]:
            best = error, codes.view_as(weight).int(), codebook.float()
    return best[1:]
""",
    ),
}

WRONG = {
    "1: the result is not written": (
        1,
        """
def best_tile(n, cache):
    fitting = [t for t in range(1, n + 1) if n % t == 0 and 12 * t**2 <= cache]
    if not fitting:
        raise ValueError("cache")
    return max(fitting), 8 * n**3 // max(fitting)
""",
    ),
    "1: room for two tiles only": (
        1,
        """
def best_tile(n, cache):
    fitting = [t for t in range(1, n + 1) if n % t == 0 and 8 * t**2 <= cache]
    if not fitting:
        raise ValueError("cache")
    t = max(fitting)
    return t, 4 * (2 * n**3 // t + n**2)
""",
    ),
    "1: tiles that do not divide the matrix": (
        1,
        """
def best_tile(n, cache):
    t = min(n, int((cache / 12) ** 0.5))
    if t == 0:
        raise ValueError("cache")
    return t, 4 * (2 * n**3 // t + n**2)
""",
    ),
    "1: the result is written for every pair": (
        1,
        """
def best_tile(n, cache):
    fitting = [t for t in range(1, n + 1) if n % t == 0 and 12 * t**2 <= cache]
    if not fitting:
        raise ValueError("cache")
    return max(fitting), 12 * n**3 // max(fitting)
""",
    ),
    "1: too small a cache gives nothing": (
        1,
        """
def best_tile(n, cache):
    t = max([t for t in range(1, n + 1) if n % t == 0 and 12 * t**2 <= cache], default=0)
    return (t, 4 * (2 * n**3 // t + n**2)) if t else None
""",
    ),
    "2: a quarter of the batch": (
        2,
        """
def smallest_batch(n, c, ridge, bits):
    return int(np.ceil(ridge * bits / 8))
""",
    ),
    "2: never says never": (
        2,
        """
def smallest_batch(n, c, ridge, bits):
    return int(np.ceil(ridge * n * c * bits / 8 / (n * c - 4 * ridge * (n + c))))
""",
    ),
    "2: weights of 32 bits whatever is asked": (
        2,
        """
def smallest_batch(n, c, ridge, bits):
    gained = n * c - 4 * ridge * (n + c)
    return int(np.ceil(4 * ridge * n * c / gained)) if gained > 0 else None
""",
    ),
    "2: activations in the bits of the weights": (
        2,
        """
def smallest_batch(n, c, ridge, bits):
    gained = n * c - bits / 8 * ridge * (n + c)
    return max(1, int(np.ceil(ridge * n * c * bits / 8 / gained))) if gained > 0 else None
""",
    ),
    "3: equal distances between the extremes": (
        3,
        """
def compress(weight, bits):
    codebook = torch.linspace(float(weight.min()), float(weight.max()), 2**bits)
    return (weight[..., None] - codebook).abs().argmin(-1), codebook
""",
    ),
    "3: the best equal distances": (
        3,
        """
def compress(weight, bits):
    def of(width):
        codebook = weight.mean() + width * weight.std() * torch.linspace(-1, 1, 2**bits)
        return (weight[..., None] - codebook).abs().argmin(-1), codebook
    return min((of(width / 10) for width in range(5, 50)), key=lambda way: float((way[1][way[0]] - weight).square().mean()))
""",
    ),
    "3: equally many weights for each value": (
        3,
        """
def compress(weight, bits):
    parts = weight.flatten().sort().values.tensor_split(2**bits)
    codebook = torch.stack([part.mean() for part in parts])
    return (weight[..., None] - codebook).abs().argmin(-1), codebook
""",
    ),
    "3: one value too many": (
        3,
        """
def compress(weight, bits):
    from course_lib.kmeans import kmeans_1d
    codebook, codes = kmeans_1d(weight, 2**bits + 1)
    return codes, codebook
""",
    ),
    "3: codes of another shape": (
        3,
        """
def compress(weight, bits):
    from course_lib.kmeans import kmeans_1d
    codebook, codes = kmeans_1d(weight, 2**bits)
    return codes.flatten(), codebook
""",
    ),
    "3: equal weights divide by nothing": (
        3,
        """
def compress(weight, bits):
    from course_lib.kmeans import kmeans_1d
    spread = weight.std()
    codebook, codes = kmeans_1d(weight / spread, 2**bits)
    return codes, codebook * spread
""",
    ),
}
