"""Two k-means that weights ask for: of scalars, by sorting; and of many small sets of vectors at once, as one batch.

A clustering of scalars is a cutting of the sorted values into intervals. With prefix sums the mean of an interval costs two
look-ups, so a step of Lloyd's algorithm costs k log n instead of n k. Product quantization wants the other kind: hundreds of
independent problems of a few hundred short vectors, which are batched matrix products on any device.
"""

import math

import numpy as np
import torch
from torch import Tensor

START_CHUNK = 2**25  # distances that the start of `kmeans` holds at once: 128 MiB


def kmeans_1d(values: Tensor, k: int, init: Tensor | None = None, iterations: int = 1000) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm on scalars; a cluster that runs empty keeps its centroid.

    Args:
        values: any shape, floating point.
        k: number of clusters, 2 to the number of values.
        init: the centroids to start from, (k,), in any order; default a start from which it ends within a percent of the
            optimum, and at it for up to 256 values.
        iterations: at most; it ends as soon as no value changes its cluster.

    Returns:
        Centroids (k,), ascending, float32; and the codes of `values`, same shape, uint8 up to k = 256, else int32.

    Raises:
        ValueError: k out of range, `init` not of shape (k,), or values that are not finite.
    """
    values = values.detach().float().contiguous()
    _check(values, k, values.numel(), "values")
    if init is not None and init.shape != (k,):
        raise ValueError(f"init has shape {tuple(init.shape)}; expected ({k},)")
    # In NumPy on the CPU, wherever the values lie: hundreds of tiny steps, in which torch spends its time on calls
    ordered = np.sort(values.flatten().cpu().numpy())
    sums = _prefix_sums(ordered)
    centroids = _optimal_start(ordered, sums, k) if init is None else np.sort(init.detach().double().cpu().numpy())
    edges = None
    for _ in range(iterations):
        before, edges = edges, _edges(ordered, centroids)
        if before is not None and (edges == before).all():
            break
        counts, upto = edges[1:] - edges[:-1], sums[edges]
        centroids = np.where(counts > 0, (upto[1:] - upto[:-1]) / np.maximum(counts, 1), centroids)
    centroids = torch.from_numpy(centroids.astype(np.float32)).to(values.device)
    codes = torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2, out_int32=True)
    return centroids, codes.to(code_type(k))


def _prefix_sums(ordered: np.ndarray) -> np.ndarray:
    """(n + 1,): entry i is the sum of the first i values; the double precision keeps differences of sums exact enough."""
    sums = np.zeros(len(ordered) + 1)
    np.cumsum(ordered, dtype=np.float64, out=sums[1:])
    return sums


def _edges(ordered: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Cluster j holds ordered[edges[j] : edges[j + 1]]; (k + 1,)."""
    edges = np.zeros(len(centroids) + 1, np.int64)
    edges[1:-1] = ordered.searchsorted(((centroids[1:] + centroids[:-1]) / 2).astype(np.float32), side="right")
    edges[-1] = len(ordered)
    return edges


def _optimal_start(ordered: np.ndarray, sums: np.ndarray, k: int) -> np.ndarray:
    """The best clustering whose borders are borders of small cells, by dynamic programming over the cells; (k,) float64.

    The least error of cells 0..i in j clusters is the minimum over l of that of 0..l in j - 1 and the error of l..i as one.
    """
    edges = _cells(ordered, max(k, min(max(16 * k, 256), 1024)))
    count, total, squares = edges.astype(float), sums[edges], _prefix_sums(np.square(ordered))[edges]
    if len(edges) - 1 > k:
        members = np.maximum(count[:, None] - count, 1)  # entry (i, l): of the cells l to i as one cluster
        error = squares[:, None] - squares - (total[:, None] - total) ** 2 / members
        error[np.triu_indices_from(error)] = np.inf
        least, choices = error[:, 0], []
        for _ in range(k - 1):
            candidates = least + error  # (i, l)
            choices.append(candidates.argmin(1))
            least = candidates.min(1)
        borders = [len(edges) - 1]
        for choice in reversed(choices):
            borders.append(choice[borders[-1]])
        count, total = count[[0, *reversed(borders)]], total[[0, *reversed(borders)]]
    means = np.diff(total) / np.diff(count)
    return np.pad(means, (0, k - len(means)), mode="edge")  # fewer different values than clusters: some coincide


def _cells(ordered: np.ndarray, count: int) -> np.ndarray:
    """Borders of at most `count` cells, as indices, as dense as the cube root of the values' density; first 0, last n.

    That is the spacing of the best fine quantizer (Panter & Dite 1951). Neighbours at distance D have density 1 / D, so the
    integral of its cube root over the gap is D ** (2 / 3).
    """
    if len(ordered) <= count:
        return np.arange(len(ordered) + 1)
    step = max(1, len(ordered) // 2**16)  # of very many values a part tells the density
    mass = np.cumsum(np.diff(ordered[::step]) ** np.float32(2 / 3), dtype=np.float64)
    inner = step * (np.searchsorted(mass, np.arange(1, count) / count * mass[-1]) + 1)
    return np.unique(np.concatenate([[0], inner, [len(ordered)]]))


def kmeans(points: Tensor, k: int, seed: int = 0, iterations: int = 50) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm in s independent problems of the same size at once, from a k-means++ start.

    Args:
        points: (s, m, d), floating point.
        k: clusters of each problem, 2 to m.
        seed: of the start.
        iterations: at most; it ends as soon as no point changes its cluster.

    Returns:
        Centroids (s, k, d), float32, and codes (s, m), uint8 up to k = 256, else int32.

    Raises:
        ValueError: k out of range, or points that are not finite.
    """
    points = points.detach().float().contiguous()
    _check(points, k, points.shape[1], "points")
    generator = torch.Generator(points.device).manual_seed(seed)
    centres, codes = [], []
    for part in points.split(max(1, START_CHUNK // (points.shape[1] * _draws(k)))):
        found, members = _lloyd(part, _plus_plus(part, k, generator), iterations)
        centres.append(found)
        codes.append(members.to(code_type(k)))
    return torch.cat(centres), torch.cat(codes)


def _draws(k: int) -> int:
    return 2 + int(math.log(k))  # as scikit-learn does


def _plus_plus(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """The k-means++ start: a centre is drawn in proportion to squared distance; of a few draws the best is taken. (s, k, d)."""
    s, m, d = points.shape
    squares, transposed = points.square().sum(2), points.mT.contiguous()  # (s, m), (s, d, m)
    centres = points.new_empty(s, k, d)
    nearest = torch.full_like(squares, float("inf"))  # squared distance to the centres so far
    weights = torch.ones_like(squares)
    for j in range(k):
        picks = torch.multinomial(weights, _draws(k), replacement=True, generator=generator)  # (s, draws)
        drawn = points.gather(1, picks[:, :, None].expand(-1, -1, d))  # (s, draws, d)
        distances = torch.baddbmm(squares[:, None], drawn, transposed, alpha=-2) + squares.gather(1, picks)[:, :, None]
        nearest_if = torch.minimum(nearest[:, None], distances.clamp_(min=0))  # (s, draws, m)
        best = nearest_if.sum(2).argmin(1)[:, None, None]  # (s, 1, 1)
        centres[:, j] = drawn.gather(1, best.expand(-1, -1, d))[:, 0]
        nearest = nearest_if.gather(1, best.expand(-1, -1, m))[:, 0]
        weights = nearest.where(nearest.sum(1, keepdim=True) > 0, 1.0)  # all points are centres: any will do
    return centres


def _lloyd(points: Tensor, centres: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    codes = _nearest(points, centres)
    for _ in range(iterations):
        centres = _means(points, centres, codes)
        before, codes = codes, _nearest(points, centres)
        if torch.equal(codes, before):
            break
    return centres, codes


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """argmin |x - c|^2 = argmin |c|^2 / 2 - x c; (s, m)."""
    # A few problems at a time: their distances stay in the cache of a CPU, which is 4 times faster
    step = max(1, (2**27 if points.is_cuda else 2**20) // (points.shape[1] * centres.shape[1]))
    halves = centres.square().sum(2)[:, None] / 2  # (s, 1, k)
    parts = zip(halves.split(step), points.split(step), centres.mT.split(step), strict=True)
    return torch.cat([torch.baddbmm(half, x, c, alpha=-1).argmin(2) for half, x, c in parts])


def _means(points: Tensor, centres: Tensor, codes: Tensor) -> Tensor:
    """The mean of each cluster; an empty one is re-seeded at a point far from its centre. (s, k, d)."""
    counts = torch.zeros(centres.shape[:2], device=points.device).scatter_add_(1, codes, torch.ones_like(points[:, :, 0]))
    where = codes[:, :, None].expand_as(points)
    means = torch.zeros_like(centres).scatter_add_(1, where, points) / counts.clamp(min=1)[:, :, None]
    empty = counts == 0  # (s, k)
    if not empty.any():
        return means
    away = (points - means.gather(1, where)).square().sum(2)  # (s, m)
    furthest = away.topk(empty.sum(1).max(), dim=1).indices  # (s, most empty ones)
    rank = (empty.cumsum(1) - 1).clamp(min=0, max=furthest.shape[1] - 1)  # the j-th empty cluster takes the j-th furthest
    picks = furthest.gather(1, rank)[:, :, None].expand_as(means)
    return torch.where(empty[:, :, None], points.gather(1, picks), means)


def look_up(codebooks: Tensor, codes: Tensor) -> Tensor:
    """Codebooks (s, k, d) and codes (s, m): the coded vectors (s, m, d)."""
    return codebooks.gather(1, codes.long()[:, :, None].expand(-1, -1, codebooks.shape[2]))


def code_type(k: int) -> torch.dtype:
    """The dtype of codes from 0 to k - 1: uint8 where they fit, else int32."""
    return torch.uint8 if k <= 256 else torch.int32


def _check(values: Tensor, k: int, most: int, name: str) -> None:
    if not 2 <= k <= most:
        raise ValueError(f"k is {k}; with {most} vectors to cluster it can be 2 to {most}")
    if not values.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity; there is nothing to cluster")
