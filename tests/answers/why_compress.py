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
    "3: by dynamic programming, a list": (
        3,
        """
def on_chip(sizes, capacity):
    reached = {0: []}
    for name, size in sizes.items():
        for total, names in list(reached.items()):
            if total + size <= capacity:
                reached.setdefault(total + size, [*names, name])
    best = max(reached)
    return reached[best], (best * 1.25 + (sum(sizes.values()) - best) * 160) / 1e12
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
    "3: the largest first": (
        3,
        """
def on_chip(sizes, capacity):
    kept, held = set(), 0
    for name in sorted(sizes, key=sizes.get, reverse=True):
        if held + sizes[name] <= capacity:
            kept.add(name)
            held += sizes[name]
    return kept, (held * 1.25 + (sum(sizes.values()) - held) * 160) / 1e12
""",
    ),
    "3: the smallest first": (
        3,
        """
def on_chip(sizes, capacity):
    kept, held = set(), 0
    for name in sorted(sizes, key=sizes.get):
        if held + sizes[name] <= capacity:
            kept.add(name)
            held += sizes[name]
    return kept, (held * 1.25 + (sum(sizes.values()) - held) * 160) / 1e12
""",
    ),
    "3: a full chip does not count": (
        3,
        """
def on_chip(sizes, capacity):
    choices = [c for r in range(len(sizes) + 1) for c in itertools.combinations(sizes, r)]
    best = max((c for c in choices if sum(map(sizes.get, c)) < capacity), key=lambda c: sum(map(sizes.get, c)))
    held = sum(map(sizes.get, best))
    return set(best), (held * 1.25 + (sum(sizes.values()) - held) * 160) / 1e12
""",
    ),
    "3: an access a byte": (
        3,
        """
def on_chip(sizes, capacity):
    choices = [c for r in range(len(sizes) + 1) for c in itertools.combinations(sizes, r)]
    best = max((c for c in choices if sum(map(sizes.get, c)) <= capacity), key=lambda c: sum(map(sizes.get, c)))
    held = sum(map(sizes.get, best))
    return set(best), (held * 5 + (sum(sizes.values()) - held) * 640) / 1e12
""",
    ),
}
