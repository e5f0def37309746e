"""Answers to the exercises of notebook 09: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

RIGHT = {
    "1: counting on from one 0 and one 1": (
        1,
        """
def enumerative_bits(decisions, contexts):
    zeros, ones, bits = {}, {}, 0.0
    for d, c in zip(decisions, contexts):
        a, b = zeros.get(c, 1), ones.get(c, 1)
        bits += math.log2((a + b) / (b if d else a))
        zeros[c], ones[c] = a + 1 - d, b + d
    return bits
""",
    ),
    "1: by the logarithm of the gamma function": (
        1,
        """
def enumerative_bits(decisions, contexts):
    total = 0.0
    for c in set(contexts):
        seen = [d for d, k in zip(decisions, contexts) if k == c]
        n, k = len(seen), sum(seen)
        total += math.log2(n + 1) + (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
    return total
""",
    ),
    "2: the number is stretched instead of the interval": (
        2,
        """
def decode(digits, count):
    x = sum(Fraction(1, 2 ** place) for place, digit in enumerate(digits, start=1) if digit == "1")
    found = []
    for n in range(count):
        p = Fraction(sum(found) + 1, n + 2)
        if x < p:
            found.append(1)
            x = x / p
        else:
            found.append(0)
            x = (x - p) / (1 - p)
    return found
""",
    ),
    "3: by the highest threshold that is allowed": (
        3,
        """
def my_weights(file, images, labels):
    fc1, scores = rewriting.levels(file, "fc1"), play.importance(file, images)
    whole, best = rewriting.accuracy(rewriting.rebuilt(file), images, labels), {}
    limit = scores[fc1 != 0].sort().values
    for number in range(20, len(limit) // 2, 20):
        trial = {"fc1": fc1 * (scores > limit[number])}
        if rewriting.accuracy(rewriting.rebuilt(rewriting.with_levels(file, trial)), images, labels) >= whole - 1:
            best = trial
    return best
""",
    ),
}

WRONG = {
    "1: the number of ones is not written": (
        1,
        """
def enumerative_bits(decisions, contexts):
    total = 0.0
    for c in set(contexts):
        seen = [d for d, k in zip(decisions, contexts) if k == c]
        total += math.log2(math.comb(len(seen), sum(seen)))
    return total
""",
    ),
    "1: one context for all": (
        1,
        """
def enumerative_bits(decisions, contexts):
    return math.log2(len(decisions) + 1) + math.log2(math.comb(len(decisions), sum(decisions)))
""",
    ),
    "1: n numbers instead of n + 1": (
        1,
        """
def enumerative_bits(decisions, contexts):
    total = 0.0
    for c in set(contexts):
        seen = [d for d, k in zip(decisions, contexts) if k == c]
        total += math.log2(len(seen)) + math.log2(math.comb(len(seen), sum(seen)))
    return total
""",
    ),
    "2: the probability never learns": (
        2,
        """
def decode(digits, count):
    number, low, high, found = Fraction(int(digits, 2), 2 ** len(digits)), Fraction(0), Fraction(1), []
    for _ in range(count):
        middle = (low + high) / 2
        found.append(int(number < middle))
        low, high = (low, middle) if found[-1] else (middle, high)
    return found
""",
    ),
    "2: a 1 takes the upper part": (
        2,
        """
def decode(digits, count):
    number, low, high, found = Fraction(int(digits, 2), 2 ** len(digits)), Fraction(0), Fraction(1), []
    for place in range(count):
        middle = high - (high - low) * Fraction(sum(found) + 1, place + 2)
        found.append(int(number >= middle))
        low, high = (middle, high) if found[-1] else (low, middle)
    return found
""",
    ),
    "3: nothing is changed": (
        3,
        """
def my_weights(file, images, labels):
    return {}
""",
    ),
    "3: half of fc1 is gone, whatever that costs": (
        3,
        """
def my_weights(file, images, labels):
    fc1, scores = rewriting.levels(file, "fc1"), play.importance(file, images)
    return {"fc1": fc1 * (scores > scores[fc1 != 0].median())}
""",
    ),
}
