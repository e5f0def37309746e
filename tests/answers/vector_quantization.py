"""Answers to the exercises of notebook 01: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

RIGHT = {
    "1: from the largest down, in fractions": (
        1,
        """
def largest_k(m, n, segments, rate):
    from fractions import Fraction
    for bits in range(m.bit_length() + 1, 0, -1):
        if 2 ** bits <= m and Fraction(32 * m * n, bits * m * segments + 32 * n * 2 ** bits) >= Fraction(rate):
            return 2 ** bits
""",
    ),
    "2: every number of non-zeros in a loop": (
        2,
        """
def ternarize(weight):
    flat = weight.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda i: -abs(flat[i]))
    best = (float("inf"), 0.0, [0] * len(flat))
    for j in range(1, len(flat) + 1):
        a = sum(abs(flat[i]) for i in order[:j]) / j
        codes = [0] * len(flat)
        for i in order[:j]:
            codes[i] = (flat[i] > 0) - (flat[i] < 0)
        best = min(best, (sum((w - a * c) ** 2 for w, c in zip(flat, codes)), a, codes))
    return best[1], torch.tensor(best[2], dtype=torch.int8).view(weight.shape)
""",
    ),
    "3: another setting": (3, "my_setting = dict(fc1=[16, 5], fc2=(4, 1), fc3=(8, 2))"),
}

WRONG = {
    "1: codebooks forgotten": (
        1,
        """
def largest_k(m, n, segments, rate):
    best, bits = None, 1
    while 2 ** bits <= m:
        if 32 * m * n >= rate * m * segments * bits:
            best = 2 ** bits
        bits += 1
    return best
""",
    ),
    "1: one codebook for all blocks": (
        1,
        """
def largest_k(m, n, segments, rate):
    best, bits = None, 1
    while 2 ** bits <= m:
        if 32 * m * n >= rate * (m * segments * bits + 32 * 2 ** bits * n / segments):
            best = 2 ** bits
        bits += 1
    return best
""",
    ),
    "1: the first that fails ends the search": (
        1,
        """
def largest_k(m, n, segments, rate):
    for bits in range(1, 32):
        if 32 * m * n >= rate * (m * segments * bits + 32 * 2 ** bits * n):
            return 2 ** bits
""",
    ),
    "2: the usual threshold of 0.7 mean magnitudes": (
        2,
        """
def ternarize(weight):
    codes = weight.sign() * (weight.abs() > 0.7 * weight.abs().mean())
    return weight.abs()[codes != 0].mean().item(), codes
""",
    ),
    "2: scale is the mean of all": (
        2,
        """
def ternarize(weight):
    return weight.abs().mean().item(), weight.sign()
""",
    ),
    "2: k-means with three values": (
        2,
        """
def ternarize(weight):
    coded = paper.scalar_kmeans(weight, 3)
    return coded.codebooks.max().item(), coded.codes.view(weight.shape).float() - 1
""",
    ),
    "3: one setting for all": (3, "my_setting = dict.fromkeys(('fc1', 'fc2', 'fc3'), (16, 5))"),
    "3: not small enough": (3, "my_setting = dict(fc1=(16, 4), fc2=(16, 4), fc3=(16, 2))"),
    "3: the last layer pays": (3, "my_setting = dict(fc1=(16, 5), fc2=(16, 4), fc3=(4, 10))"),
}
