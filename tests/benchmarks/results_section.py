"""Write RESULTS.md's figures from an evaluation: nothing in that section is typed by hand.

    foveate evaluate PHOTOS --model M --judge J --codec jpeg --codec webp --baselines --out OUT
    python tests/benchmarks/results_section.py OUT/results.json RESULTS.md

replaces what stands in RESULTS.md between ``<!-- results -->`` and ``<!-- /results -->``.
"""

import re
import sys
from pathlib import Path

from foveate.evaluation import Comparison, Results, plots
from foveate.evaluation.report import span

BASELINES = {
    "codec alone": "the codec alone",
    "even": "the same smoothing, spread evenly",
    "center": "a center-weighted map",
    "other image": "another image's map",
    "downscaling": "the best of all scales and qualities",
}


def section(results: Results) -> str:
    """Return the section as Markdown."""
    judges = list(results.clean)
    n = results.points[0].n
    clean = "; ".join(
        f"{name} {100 * judge.top1:.1f} % top-1 on the untouched photos" + (", the known judge" if judge.known else "")
        for name, judge in results.clean.items()
    )
    lines = [f"n = {n}; {clean}.", ""]
    heads = ["", "quality", "bytes", "bpp"]
    for name in judges:
        heads += [f"{name} top-1", "agreement", "saved (95 %)"]
    lines += [row(heads), "|---|" + "--:|" * (len(heads) - 1)]
    saved = {(s.judge, s.key): s for s in results.savings if s.metric == "agreement" and s.baseline == "codec alone"}
    for label, points in plots.curves(results.points).items():
        if points[0].map not in (None, "saliency"):
            continue
        for position, point in enumerate(points):
            cells = ["" if position else label, f"{point.quality:g}", f"{point.bytes:,.0f}", f"{point.bpp:.3f}"]
            for name in judges:
                judgment, saving = point.judges[name], saved.get((name, point.key))
                gain = (
                    "–"
                    if saving is None or saving.saved is None
                    else f"{percent(saving.saved)} ({span(saving.interval)})"
                )
                cells += [f"{100 * judgment.top1:.1f} %", f"{100 * judgment.agreement:.1f} %", gain]
            lines.append(row(cells))
    curves = list(dict.fromkeys(c.curve for c in results.comparisons if c.baseline == "even"))
    heads = ["bytes saved by the map, against", *(f"{c}: {name}" for c in curves for name in judges)]
    lines += ["", row(heads), "|---|" + "--:|" * (len(heads) - 1)]
    compared = {(c.curve, c.judge, c.baseline): c for c in results.comparisons if c.metric == "agreement"}
    for baseline, words in BASELINES.items():
        lines.append(row([words, *(gain_of(compared.get((c, name, baseline))) for c in curves for name in judges)]))
    verdicts = [c for c in compared.values() if c.curve in curves and c.baseline in BASELINES]
    for known in (True, False):
        judged = [c for c in verdicts if c.known == known]
        beaten = [c for c in judged if c.verdict == "saves"]
        lost = [c for c in judged if c.verdict == "costs"]
        better = "; ".join(f"{BASELINES[c.baseline]} ({c.curve.partition(',')[0]})" for c in beaten) or "none"
        worse = "; ".join(f"{BASELINES[c.baseline]} ({c.curve.partition(',')[0]})" for c in lost) or "none"
        judge = "the judge that made the map" if known else "the judge that did not"
        lines += [
            "",
            f"Before {judge}, the whole interval says that the map beats: {better}. It says the map loses to: {worse}.",
        ]
    return "\n".join(lines)


def gain_of(c: Comparison | None) -> str:
    """The bytes that a curve saves, with the interval: bold where all of it is on one side."""
    if c is None:
        return "–"
    if c.bd_rate is None:
        return "no overlap"
    low, high = c.bd_rate_interval
    text = f"{percent(-c.bd_rate)} ({span((None if high is None else -high, None if low is None else -low))})"
    return text if c.verdict == "open" else f"**{text}**"


def percent(share: float) -> str:
    """A share as a signed percentage."""
    return f"{100 * share:+.0f} %".replace("-", "−")


def row(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Replace the section of the file named second by what the results named first say."""
    results, page = Results.load(sys.argv[1]), Path(sys.argv[2])
    text = page.read_text(encoding="utf-8")
    new, count = re.subn(
        r"(<!-- results -->\n).*?(\n<!-- /results -->)", lambda m: m[1] + section(results) + m[2], text, flags=re.S
    )
    if count != 1:
        raise SystemExit(f"{page} has {count} places for results, expected one")
    page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
