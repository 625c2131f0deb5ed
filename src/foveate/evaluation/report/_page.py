"""The report as one HTML page."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from foveate.evaluation import plots
from foveate.evaluation._exhibits import Exhibit, focus
from foveate.evaluation._measurement import Measurement
from foveate.evaluation._vocabulary import metric_held_equal
from foveate.evaluation.report._answer import answer
from foveate.evaluation.report._table import table
from foveate.evaluation.report._words import headlines, rate_controls, role, verdicts
from foveate.evaluation.results import Results
from foveate.images import to_array

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

_SHOWN_BY_BROWSERS = ("image/jpeg", "image/webp", "image/avif")


def page(
    results: Results,
    measured: Measurement,
    exhibits: Sequence[Exhibit],
    *,
    title: str,
    lead: str,
    class_names: Mapping[int, str],
    metric: str = "agreement",
    command: str | None = None,
) -> str:
    """Return the report as one HTML page with all images and plots inside: it needs no scripts and no network.

    Args:
        results: the figures.
        measured: the counts, for what is shown class by class.
        exhibits: the images to show.
        title: of the page.
        lead: a sentence or two before the figures.
        class_names: a name for each class number; classes without one are shown as numbers.
        metric: ``"agreement"`` or ``"top1"``: what is held equal when bytes are compared.
        command: the command line that compresses as the cheapest point that keeps the answers does.

    Raises:
        ValueError: if there is no such metric.
    """
    from jinja2 import Environment

    metric = metric_held_equal(metric)
    heads, rows = table(results, metric)
    changes, unchanged = _class_plots(results, measured, class_names, metric)
    text = (files("foveate.evaluation.report") / "page.html.j2").read_text("utf-8")
    template = Environment(autoescape=True).from_string(text)
    return template.render(
        title=title,
        lead=lead,
        metric=metric.label,
        n=results.points[0].n,
        results=results,
        role=lambda known: role(results, known),
        answer=answer(results),
        command=command,
        cards=headlines(results, metric),
        plots=_curve_plots(results, metric),
        verdicts=verdicts(results, metric),
        rate_controls=_rate_controls(results, measured, metric),
        changes=changes,
        unchanged=unchanged,
        table={"heads": heads, "rows": rows},
        exhibits=[_exhibit(exhibit, class_names) for exhibit in exhibits],
        copies=_copied_codecs(measured),
    )


def _curve_plots(results: Results, metric: str) -> "list[Markup]":
    codecs: list[str | None] = list(dict.fromkeys(p.codec for p in results.points))
    # With baselines a plot of several codecs is unreadable: then each codec has its own.
    apart = codecs if any(p.is_baseline for p in results.points) else [None]
    figures = [
        plots.rate_accuracy(results, judge, metric, codec=codec)[0] for codec in apart for judge in results.clean
    ]
    return _markup(figures)


def _class_plots(
    results: Results, measured: Measurement, class_names: Mapping[int, str], metric: str
) -> "tuple[list[Markup], list[str]]":
    """The plots of what changes class by class, and the judges for whom nothing does."""
    pair = focus(measured.compressors)
    if pair is None:
        return [], []
    alone, filtered = pair
    figures, unchanged = [], []
    for judge in results.clean:
        figure, ax = plots.class_changes(measured, judge, filtered, alone, class_names=class_names, metric=metric)
        if ax.patches:
            figures.append(figure)
        else:
            unchanged.append(judge)
    return _markup(figures), unchanged


def _rate_controls(results: Results, measured: Measurement, metric: str) -> list[dict[str, Any]]:
    controlled = [k for k in sorted(measured.chosen) if not results.points[k].is_baseline]
    sections = zip(controlled, rate_controls(results, metric), strict=True)
    return [
        {
            "title": section.title,
            "lines": section.lines,
            "largest": _largest(measured, point),
            "plots": _markup(
                [
                    plots.byte_distribution(measured, point)[0],
                    plots.chosen_settings(measured, point)[0],
                    *([plots.reliability(measured, point)[0]] if "expected" in measured.chosen[point][0] else []),
                ]
            ),
        }
        for point, section in sections
    ]


def _largest(measured: Measurement, point: int, most: int = 5) -> str:
    """The images that took most bytes at a point of a rate control, in words."""
    order = measured.bytes[point].argsort(descending=True, stable=True)[:most].tolist()
    return "; ".join(
        f"{measured.names[n]}, {int(measured.bytes[point, n]):,} bytes (quality {choice['quality']:g}, scale "
        f"{choice['scale']:g}, strength {choice['strength']:g}{'' if choice['met'] else ', not met'})"
        for n, choice in ((n, measured.chosen[point][n]) for n in order)
    )


def _copied_codecs(measured: Measurement) -> str:
    """The codecs whose bitstreams browsers do not show."""
    codecs = {c.codec.name for c in measured.compressors if c.codec.media_type not in _SHOWN_BY_BROWSERS}
    return ", ".join(sorted(codecs))


def _markup(figures: "Sequence[Figure]") -> "list[Markup]":
    from markupsafe import Markup

    return [Markup(plots.to_svg(figure)) for figure in figures]


def _exhibit(exhibit: Exhibit, class_names: Mapping[int, str]) -> dict[str, Any]:
    """The strips of an exhibit: the original and its map, then a strip for each curve, from coarse to fine."""
    image = exhibit.sample.image
    size = {"width": image.shape[2], "height": image.shape[1]}

    def item(alt: str, src: str, bytes: str = "", answers: Sequence[Any] = ()) -> dict[str, Any]:
        return {"alt": alt, "src": src, "bytes": bytes, "answers": answers, **size}

    def answers(classes: Mapping[str, int]) -> list[dict[str, Any]]:
        return [
            {"text": class_names.get(k, f"class {k}"), "kept": k == exhibit.clean[judge]}
            for judge, k in classes.items()
        ]

    original = _display_copy(image)
    first = [item("original", original, answers=answers(exhibit.clean))]
    if exhibit.saliency is not None:
        first.append(item("saliency", _display_copy(plots.overlay(image, exhibit.saliency))))
    first += [item(name, _display_copy(filtered)) for name, filtered in exhibit.filtered.items()]
    strips: dict[str, list[dict[str, Any]]] = {}
    for point in exhibit.points:
        codec, data = point.encoded.codec, point.encoded.data
        direct = codec.media_type in _SHOWN_BY_BROWSERS
        strips.setdefault(point.curve, []).append(
            item(
                f"{point.curve}, quality {codec.quality:g}",
                _uri(codec.media_type, data) if direct else _display_copy(point.decoded),
                f"{len(data):,} bytes",
                answers(point.answers),
            )
        )
    if all(len(strip) == 1 for strip in strips.values()):  # one quality a curve: side by side
        strips = {"": [strip[0] for strip in strips.values()]}
    label = class_names.get(exhibit.sample.label, f"class {exhibit.sample.label}")
    strips_of_all = [first, *strips.values()]
    title = f"{exhibit.sample.name}: {label}"
    return {"kind": exhibit.kind, "title": title, "original": original, "strips": strips_of_all}


def _display_copy(image: Tensor) -> str:
    """An image for the page, at most 480 pixels wide, as fine WebP: never a measured rate."""
    copy = Image.fromarray(to_array(image if image.shape[0] == 3 else image.expand(3, -1, -1)))
    copy.thumbnail((480, 480))
    stream = io.BytesIO()
    copy.save(stream, "WEBP", quality=90)
    return _uri("image/webp", stream.getvalue())


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
