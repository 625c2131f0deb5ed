"""The result in words, as a table for the terminal, and as one self-contained page."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from PIL import Image
from torch import Tensor

from foveate.evaluation import plots
from foveate.evaluation.bootstrap import Interval
from foveate.evaluation.exhibits import Exhibit, focus
from foveate.evaluation.rate_accuracy import Measurement
from foveate.evaluation.results import Comparison, Results
from foveate.images import to_array

_SHOWN_BY_BROWSERS = ("image/jpeg", "image/webp", "image/avif")
_METRICS = {"agreement": "agreement", "top1": "top-1"}
_RIVALS = {
    "codec alone": "lower quality alone",
    "even": "the same smoothing spread evenly",
    "center": "a center-weighted map",
    "other picture": "another picture's map",
    "downscaling": "plain downscaling at its best scale",
}


def table(results: Results, metric: str = "agreement") -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of the table of all points, with what each saves at equal ``metric``."""
    heads = ["setting", "quality", "bytes", "bpp"]
    fidelity = results.points[0].psnr is not None
    heads += ["PSNR", "MS-SSIM"] if fidelity else []
    for judge in results.clean:
        heads += [f"{judge} top-1", "agreement", "KL", "saved", "95 %"]
    alone = (s for s in results.savings if s.metric == metric and not s.reference.endswith("best scale"))
    saved = {(s.judge, s.key): s for s in alone}
    rows = []
    for label, points in plots.curves(results.points).items():
        for point in points:
            row = [label, point.keep or f"{point.quality:g}", f"{point.bytes:,.0f}", f"{point.bpp:.3f}"]
            if fidelity:
                row += [f"{point.psnr:.1f}", "–" if point.ms_ssim is None else f"{point.ms_ssim:.4f}"]
            for judge, one in point.judges.items():
                saving = saved.get((judge, point.key))
                row += [f"{one.top1:.1%}", f"{one.agreement:.1%}", f"{one.kl:.3f}"]
                if saving is None or saving.saved is None:
                    row += ["–", ""]
                else:
                    row += [f"{saving.saved:+.1%}".replace("-", "−"), span(saving.interval)]
            rows.append(row)
    return heads, rows


def text_table(results: Results, metric: str = "agreement") -> str:
    """Return the table of all points as aligned text, and what the curves say below it."""
    heads, rows = table(results, metric)
    widths = [max(len(row[k]) for row in [heads, *rows]) for k in range(len(heads))]

    def line(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])

    lines = [line(heads), "  ".join("-" * width for width in widths), *map(line, rows), ""]
    lines += [f"{card['figure']} {card['text']}" for card in headlines(results, metric)]
    for control in controlled(results, metric):
        lines += ["", f"{control['title']}:", *(f"  {line}" for line in control["lines"])]
    for group in verdicts(results, metric):
        lines += ["", f"{group['title']}:", *(f"  {line['text']}" for line in group["lines"])]
    return "\n".join(lines)


def headlines(results: Results, metric: str = "agreement") -> list[dict[str, str]]:
    """Return, for each judge and each setting against its codec alone, a figure and the sentence that goes with it.

    The figure is that of the whole curve (BD-rate), not of its best point.
    """
    # At full size what differs from the codec alone uses saliency, before the codec or in it, or is a control.
    steered = {p.curve for p in results.points if p.map in ("saliency", None) and p.scale == 1}
    against = [c for c in results.comparisons if c.metric == metric and c.control == "codec alone"]
    plain = [c for c in against if not any(p.curve == c.curve and p.map for p in results.points)]
    cards = []
    # Scaled curves are a headline only where there is no saliency to speak of.
    for c in [c for c in against if c.curve in steered] or plain:
        whose = f"{c.judge}, {role(results, c.known)}"
        if c.bd_rate is None or c.overlap is None:
            text = f"by {c.curve} ({whose}): {c.reason}"
            cards.append({"figure": "no comparison", "tone": "dim", "text": text})
            continue
        low, high = (f"{100 * end:.0f}" for end in c.overlap)
        sure = f"95 %: {span(_saved(c.bd_rate_interval))}"
        text = f"by {c.curve} at equal {_METRICS[metric]}, over {low} to {high} % of it ({sure}; {whose})"
        cards.append({"figure": _more_or_fewer(c.bd_rate), "tone": _tone(c.verdict), "text": text})
    return cards


def controlled(results: Results, metric: str = "agreement") -> list[dict[str, Any]]:
    """Return in words what each point of a rate control saved, against both references, and what choosing cost."""
    found = []
    for point in results.points:
        if point.choices is None:
            continue
        lines = []
        for judge, one in point.judges.items():
            accuracy = getattr(one, metric)
            told = [f"{judge} ({'known' if one.known else 'unseen'}): {accuracy:.1%} {_METRICS[metric]}"]
            for saving in results.savings:
                if (saving.key, saving.judge, saving.metric) == (point.key, judge, metric):
                    against = "best scale and quality" if saving.reference.endswith("best scale") else "best quality"
                    share = "–" if saving.saved is None else f"{saving.saved:+.1%}".replace("-", "−")
                    saved = share if saving.saved is None else f"{share} ({span(saving.interval)})"
                    told.append(f"saved against the {against} {saved}")
            lines.append("; ".join(told))
        cost = point.choices
        lines.append(
            f"criterion met on {cost.met:.1%} of the pictures; a picture took {cost.tried:.1f} decoded candidates, "
            f"{cost.encodes:.1f} encodes and {cost.forwards:.1f} forwards of a witness"
        )
        found.append({"title": f"{point.curve}, {point.keep}: {point.bytes:,.0f} bytes a picture", "lines": lines})
    return found


def _neediest(measured: Measurement, point: int, most: int = 5) -> str:
    """The pictures that took most bytes at a point of a rate control, in words."""
    order = measured.bytes[point].argsort(descending=True, stable=True)[:most].tolist()
    return "; ".join(
        f"{measured.names[n]}, {int(measured.bytes[point, n]):,} bytes (quality {one['quality']:g}, scale "
        f"{one['scale']:g}, strength {one['strength']:g}{'' if one['met'] else ', not met'})"
        for n, one in ((n, measured.chosen[point][n]) for n in order)
    )


def verdicts(results: Results, metric: str = "agreement") -> list[dict[str, Any]]:
    """Return in words, for each judge and each setting that uses saliency, whether it beats each control."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for c in results.comparisons:
        if c.metric == metric and any(
            other.curve == c.curve and other.control not in ("codec alone",) for other in results.comparisons
        ):
            kind = "known" if c.known else "unseen"
            group = groups.setdefault(
                (c.judge, c.curve), {"title": f"{c.curve}, before {c.judge} ({kind})", "lines": []}
            )
            group["lines"].append({"text": verdict(c), "tone": _tone(c.verdict)})
    return list(groups.values())


def verdict(c: Comparison) -> str:
    """Say in a sentence what a comparison shows."""
    rival = _RIVALS[c.control]
    if c.bd_rate is None:
        return f"cannot be compared with {rival}: {c.reason}"
    said = {"saves": "beats", "costs": "loses to", "open": "is not shown to differ from"}[c.verdict]
    return f"{said} {rival}: {_more_or_fewer(c.bd_rate)} (95 %: {span(_saved(c.bd_rate_interval))} saved)"


def role(results: Results, known: bool) -> str:
    """Say whether a judge had a part in what is judged."""
    if any(p.keep for p in results.points):
        return (
            "known: it made the maps or was a witness" if known else "unseen: neither made the maps nor was a witness"
        )
    return "known: it made the map" if known else "unseen: it did not make the map"


def span(ends: Interval) -> str:
    """Spell an interval of shares: ``"3 to 13 %"``, with ``…`` for an end beyond what was measured."""
    low, high = ("…" if end is None else f"{100 * end:.0f}".replace("-", "−") for end in ends)
    return f"{low} to {high} %"


def _saved(ends: Interval) -> Interval:
    """From the interval of a BD-rate to that of the bytes saved."""
    low, high = ends
    return (None if high is None else -high, None if low is None else -low)


def _more_or_fewer(bd_rate: float) -> str:
    return f"{abs(bd_rate):.1%} {'fewer' if bd_rate <= 0 else 'more'} bytes"


def _tone(verdict: str) -> str:
    return {"saves": "good", "costs": "bad", "open": "dim"}[verdict]


def page(
    results: Results,
    measured: Measurement,
    exhibits: Sequence[Exhibit],
    title: str,
    lead: str,
    class_names: Mapping[int, str],
    metric: str = "agreement",
) -> str:
    """Return the report as one self-contained HTML page.

    Args:
        results: the figures.
        measured: the counts, for what is shown class by class.
        exhibits: the pictures to show.
        title: of the page.
        lead: a sentence or two before the figures.
        class_names: a name for class numbers that a judge or a folder can give; others are shown as numbers.
        metric: ``"agreement"`` or ``"top1"``: what is held equal when bytes are compared.

    Returns:
        The page: pictures and plots inside, readable without scripts or network.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    heads, rows = table(results, metric)
    template = Environment(autoescape=True).from_string(
        (files("foveate.evaluation") / "report.html.j2").read_text("utf-8")
    )
    codecs = list(dict.fromkeys(p.codec for p in results.points))
    # Controls make a plot of several codecs unreadable: then each codec has one of its own.
    apart = codecs if any(p.map not in (None, "saliency") for p in results.points) else [None]
    figures = [plots.rate_accuracy(results, judge, metric, codec)[0] for codec in apart for judge in results.clean]
    pair = focus(measured.compressors)
    changes = [
        plots.class_changes(measured, judge, pair[1], pair[0], class_names, metric)[0]
        for judge in results.clean
        if pair is not None
    ]
    chosen = [
        {
            **words,
            "needy": _neediest(measured, k),
            "plots": [
                Markup(plots.to_svg(draw(measured, k)[0])) for draw in (plots.byte_distribution, plots.chosen_settings)
            ],
        }
        for k, words in zip(sorted(measured.chosen), controlled(results, metric), strict=True)
    ]
    return template.render(
        chosen=chosen,
        role=lambda known: role(results, known),
        title=title,
        lead=lead,
        cards=headlines(results, metric),
        verdicts=verdicts(results, metric),
        plots=[Markup(plots.to_svg(figure)) for figure in figures],
        changes=[Markup(plots.to_svg(figure)) for figure in changes],
        table={"heads": heads, "rows": rows},
        metric=_METRICS[metric],
        n=results.points[0].n,
        skipped=results.skipped,
        exhibits=[_exhibit(e, class_names) for e in exhibits],
        copies=", ".join(
            sorted({c.codec.name for c in measured.compressors if c.codec.media_type not in _SHOWN_BY_BROWSERS})
        ),
        judge_names=" and ".join(results.clean),
        clean=results.clean,
        settings=results.settings,
        versions=results.versions,
    )


def _exhibit(exhibit: Exhibit, class_names: Mapping[int, str]) -> dict[str, Any]:
    """A picture's strips: the original and its map, then a strip a curve, from coarse to fine."""
    pixels = exhibit.photo.pixels
    size = {"width": pixels.shape[2], "height": pixels.shape[1]}

    def item(alt: str, src: str, bytes: str = "", answers: Sequence[Any] = ()) -> dict[str, Any]:
        return {"alt": alt, "src": src, "bytes": bytes, "answers": answers, **size}

    def answers(chosen: Mapping[str, int]) -> list[dict[str, Any]]:
        return [
            {"text": class_names.get(k, f"class {k}"), "kept": k == exhibit.clean[judge]} for judge, k in chosen.items()
        ]

    first = [item("original", _picture(pixels), answers=answers(exhibit.clean))]
    if exhibit.saliency is not None:
        first.append(item("saliency", _picture(plots.overlay(pixels, exhibit.saliency))))
    first += [item(f"filtered, strength {s:g}", _picture(p)) for s, p in exhibit.filtered.items()]
    strips: dict[str, list[dict[str, Any]]] = {}
    for shown in exhibit.points:
        codec, data = shown.encoded.codec, shown.encoded.data
        direct = codec.media_type in _SHOWN_BY_BROWSERS
        strips.setdefault(shown.curve, []).append(
            item(
                f"{shown.curve}, quality {codec.quality:g}",
                _uri(codec.media_type, data) if direct else _picture(shown.decoded),
                f"{len(data):,} bytes",
                answers(shown.answers),
            )
        )
    if all(len(strip) == 1 for strip in strips.values()):  # one quality a curve: side by side
        strips = {"": [strip[0] for strip in strips.values()]}
    label = class_names.get(exhibit.photo.label, f"class {exhibit.photo.label}")
    return {"kind": exhibit.kind, "title": f"{exhibit.photo.name}: {label}", "strips": [first, *strips.values()]}


def _picture(pixels: Tensor) -> str:
    """A picture for the page, at most 480 pixels wide, as fine WebP: a display copy, never a measured rate."""
    picture = Image.fromarray(to_array(pixels if pixels.shape[0] == 3 else pixels.expand(3, -1, -1)))
    picture.thumbnail((480, 480))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=90)
    return _uri("image/webp", stream.getvalue())


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
