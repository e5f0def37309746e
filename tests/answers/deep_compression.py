"""Answers to the exercises of notebook 05: unusual right ones, and plausible wrong ones. Name -> (exercise, answer)."""

RIGHT = {
    "1: place after place": (
        1,
        """
def best_index_bits(mask, code_bits):
    totals, step = np.zeros(17, int), 0
    for survives in mask.flatten().tolist():
        step += 1
        if survives:
            totals += [b + code_bits + (16 if step >= 2**b else 0) for b in range(17)]
            step = 0
    best = 1 + int(totals[1:].argmin())
    return [best, int(totals[best])]
""",
    ),
    "2: by a list that is sorted again and again": (
        2,
        """
def code_lengths(counts):
    lengths = np.zeros(len(counts), int)
    groups = [(c, frozenset([i])) for i, c in enumerate(counts)]
    while len(groups) > 1:
        groups.sort(key=lambda group: group[0])
        (a, left), (b, right) = groups[:2]
        lengths[list(left | right)] += 1
        groups[:2] = [(a + b, left | right)]
    return lengths
""",
    ),
    "3: another setting": (3, "my_bits, my_index_bits = dict(fc1=3, fc2=4, fc3=5), 9"),
}

WRONG = {
    "1: fillers after all": (
        1,
        """
def best_index_bits(mask, code_bits):
    totals = [len(paper.relative_index(mask, b)[0]) * (b + code_bits) for b in range(1, 17)]
    return 1 + totals.index(min(totals)), min(totals)
""",
    ),
    "1: no pattern left for the escape": (
        1,
        """
def best_index_bits(mask, code_bits):
    places = mask.flatten().nonzero().flatten() + 1
    gaps = places.diff(prepend=places.new_zeros(1))
    totals = {b: len(gaps) * (b + code_bits) + 16 * int((gaps > 2**b).sum()) for b in range(1, 17)}
    best = min(totals, key=totals.get)
    return best, totals[best]
""",
    ),
    "1: the first gap from place 0": (
        1,
        """
def best_index_bits(mask, code_bits):
    places = mask.flatten().nonzero().flatten()
    gaps = places.diff(prepend=places.new_zeros(1))
    totals = {b: len(gaps) * (b + code_bits) + 16 * int((gaps >= 2**b).sum()) for b in range(1, 17)}
    best = min(totals, key=totals.get)
    return best, totals[best]
""",
    ),
    "1: never an escape": (
        1,
        """
def best_index_bits(mask, code_bits):
    places = mask.flatten().nonzero().flatten() + 1
    longest = int(places.diff(prepend=places.new_zeros(1)).max())
    b = longest.bit_length()
    return b, len(places) * (b + code_bits)
""",
    ),
    "2: each symbol's own information, rounded up": (
        2,
        """
def code_lengths(counts):
    return [max(1, int(np.ceil(-np.log2(c / sum(counts))))) for c in counts]
""",
    ),
    "2: words 0, 10, 110 and so on": (
        2,
        """
def code_lengths(counts):
    order = sorted(range(len(counts)), key=lambda i: -counts[i])
    lengths = [0] * len(counts)
    for rank, i in enumerate(order):
        lengths[i] = min(rank + 1, len(counts) - 1)
    return lengths
""",
    ),
    "2: the two largest are merged": (
        2,
        """
def code_lengths(counts):
    import heapq
    heap = [(-c, i, [i]) for i, c in enumerate(counts)]
    heapq.heapify(heap)
    lengths = [0] * len(counts)
    while len(heap) > 1:
        (a, i, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        for s in left + right:
            lengths[s] += 1
        heapq.heappush(heap, (a + b, i, left + right))
    return lengths
""",
    ),
    "3: three bits with wider gaps": (3, "my_bits, my_index_bits = dict(fc1=3, fc2=3, fc3=3), 8"),
    "3: four bits everywhere": (3, "my_bits, my_index_bits = dict(fc1=4, fc2=4, fc3=4), 8"),
    "3: many bits": (3, "my_bits, my_index_bits = dict(fc1=8, fc2=8, fc3=8), 8"),
    "3: two bits where it hurts": (3, "my_bits, my_index_bits = dict(fc1=2, fc2=5, fc3=5), 8"),
}
