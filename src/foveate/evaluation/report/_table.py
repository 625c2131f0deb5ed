"""Results as a table of all points."""

from foveate.evaluation import plots
from foveate.evaluation._vocabulary import BaselineKind
from foveate.evaluation.report._answer import answer
from foveate.evaluation.report._words import headlines, rate_controls, saved_share, span, verdicts
from foveate.evaluation.results import PointResult, Results, Saving


def table(results: Results, metric: str = "agreement") -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of the table of all points, with what each saves at equal ``metric``."""
    heads = ["setting", "quality", "bytes", "bpp"]
    fidelity = results.points[0].psnr is not None
    heads += ["PSNR", "MS-SSIM"] if fidelity else []
    for judge in results.clean:
        heads += [f"{judge} top-1", "agreement", "KL", "saved", "95 %"]
    savings = {
        (saving.judge, saving.key): saving
        for saving in results.savings
        if saving.metric == metric and saving.baseline == BaselineKind.CODEC_ALONE
    }
    rows = []
    for label, points in plots.curves(results.points).items():
        for point in points:
            row = [label, point.keep or f"{point.quality:g}", f"{point.bytes:,.0f}", f"{point.bpp:.3f}"]
            if fidelity:
                row += [f"{point.psnr:.1f}", "–" if point.ms_ssim is None else f"{point.ms_ssim:.4f}"]
            for judge in point.judges:
                row += _cells(point, judge, savings.get((judge, point.key)))
            rows.append(row)
    return heads, rows


def _cells(point: PointResult, judge: str, saving: Saving | None) -> list[str]:
    judgment = point.judges[judge]
    interval = "" if saving is None or saving.saved is None else span(saving.interval)
    return [
        f"{judgment.top1:.1%}",
        f"{judgment.agreement:.1%}",
        f"{judgment.kl:.3f}",
        saved_share(saving),
        interval,
    ]


def text_answer(results: Results, command: str | None = None) -> str:
    """Return the answer as lines of text.

    Args:
        results: the figures.
        command: as for :func:`text_table`.
    """
    lines = []
    for card in answer(results):
        lines += [f"{card.figure}: {card.text}", *(f"  {line}" for line in card.lines)]
    return "\n".join([*lines, *([] if command is None else [f"  {command}"])])


def text_table(results: Results, metric: str = "agreement", command: str | None = None) -> str:
    """Return the answer, the table of all points as aligned text, and below it what the curves show.

    Args:
        results: the figures.
        metric: ``"agreement"`` or ``"top1"``: what is held equal when bytes are compared.
        command: the command line that compresses as the cheapest point that keeps the answers does.
    """
    heads, rows = table(results, metric)
    widths = [max(len(row[k]) for row in [heads, *rows]) for k in range(len(heads))]

    def line(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])

    lines = [
        text_answer(results, command),
        "",
        line(heads),
        "  ".join("-" * width for width in widths),
        *map(line, rows),
        "",
    ]
    lines += [f"{card.figure} {card.text}" for card in headlines(results, metric)]
    for section in [*rate_controls(results, metric), *verdicts(results, metric)]:
        lines += ["", f"{section.title}:", *(f"  {sentence.text}" for sentence in section.lines)]
    return "\n".join(lines)
