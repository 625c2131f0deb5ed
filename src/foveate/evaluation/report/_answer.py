"""What a user wants to know first: how small the images get, and whether the answers stay."""

from foveate.evaluation._bootstrap import wilson
from foveate.evaluation.report._words import Card, Tone, span
from foveate.evaluation.results import Judgment, PointResult, Results

KEEPING = 0.99
"""The least share of answers that the cheapest point keeps."""


def answer(results: Results) -> list[Card]:
    """Return the size of the sources, and the cheapest point that keeps 99 % of the answers, as figures in words.

    Args:
        results: of an evaluation. The answers are those of every judge that is known, or of all if none is.
    """
    cards = []
    if results.file_bytes is not None:
        text = f"your files as they are on disk (mean of {results.points[0].n})"
        cards.append(Card(f"{size(results.file_bytes)} an image", text, Tone.DIM))
    point = results.cheapest(KEEPING)
    if point is None:
        safest = results.safest()
        lines = [f"the nearest is {setting(safest)}, {_cost(results, safest)}", *_kept(safest)]
        text = (
            f"no setting that was measured keeps {KEEPING:.0%} of the answers; finer qualities, or a rate control, may"
        )
        return [*cards, Card("not found", text, Tone.BAD, lines)]
    lines = _kept(point)
    if not point.is_codec_alone:
        alone = [p for p in results.points if p.is_codec_alone and results.kept(p) >= results.kept(point)]
        rival = min(alone, key=lambda p: p.bytes, default=None)
        lines += [
            "no quality of a codec alone that was measured keeps as many"
            if rival is None
            else f"the cheapest codec alone that keeps as many is {setting(rival)}, {_cost(results, rival)}"
        ]
    text = f"the cheapest that keeps at least {KEEPING:.0%} of the answers: {setting(point)}"
    return [*cards, Card(_cost(results, point), text, Tone.GOOD, lines)]


def setting(point: PointResult) -> str:
    """Return the setting of a point, and its quality or what its rate control keeps, in words."""
    if point.keep is not None:
        head, _, witnesses = point.curve.partition(
            " for "
        )  # a curve may have several bounds, which its name leaves out
        return f"{head.partition(', keep ')[0]}, keep {point.keep} for {witnesses}"
    return f"{point.curve} at quality {point.quality:g}"


def size(count: float) -> str:
    """Return a number of bytes as text.

    Example:
        >>> size(848), size(27_400), size(2.5e6)
        ('848 B', '27.4 kB', '2.5 MB')
    """
    for unit, least in (("MB", 1e6), ("kB", 1e4)):
        if count >= least:
            return f"{count / {'MB': 1e6, 'kB': 1e3}[unit]:.1f} {unit}"
    return f"{count:,.0f} B"


def factor(before: float, after: float) -> str:
    """Return how many times smaller, or larger, images got.

    Example:
        >>> factor(27_400, 848), factor(100, 80), factor(50, 100)
        ('32× smaller', '1.2× smaller', '2.0× larger')
    """
    ratio, word = (before / after, "smaller") if after <= before else (after / before, "larger")
    return f"{ratio:.0f}× {word}" if ratio >= 10 else f"{ratio:.1f}× {word}"


def _cost(results: Results, point: PointResult) -> str:
    cost = f"{size(point.bytes)} an image"
    return cost if results.file_bytes is None else f"{cost}, {factor(results.file_bytes, point.bytes)}"


def _kept(point: PointResult) -> list[str]:
    """How many of each judge's answers a point keeps."""
    return [
        f"{name}{'' if judgment.known else ', unseen,'} keeps {_share(judgment, point.n)}"
        for name, judgment in point.judges.items()
    ]


def _share(judgment: Judgment, n: int) -> str:
    return f"{judgment.agreement:.1%} (95 %: {span(wilson(round(judgment.agreement * n), n))})"
