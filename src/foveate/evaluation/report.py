"""The result as a table for the terminal and as one self-contained page."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from foveate.evaluation import plots
from foveate.evaluation.rate_accuracy import Exhibit, Measurement
from foveate.evaluation.results import Results, Saving
from foveate.filters import resize
from foveate.images import to_array

_SHOWN_BY_BROWSERS = ("image/jpeg", "image/webp", "image/avif")


def table(results: Results, metric: str = "agreement") -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of the table of all points, with what each saves at equal ``metric``."""
    judges = list(results.points[0].judges)
    heads = ["setting", "quality", "bytes", "bpp"]
    for judge in judges:
        heads += [f"{judge} top-1", f"{judge} agreement", "saved"]
    saved = {(s.judge, s.codec, s.quality, s.strength, s.scale): s.saved for s in results.savings if s.metric == metric}
    rows = []
    for label, points in plots.curves(results.points).items():
        for point in points:
            row = [label, f"{point.quality:g}", f"{point.bytes:,.0f}", f"{point.bpp:.3f}"]
            for judge in judges:
                one = point.judges[judge]
                share = saved.get((judge, point.codec, point.quality, point.strength, point.scale))
                row += [f"{one.top1:.1%}", f"{one.agreement:.1%}", "–" if share is None else f"{share:+.1%}"]
            rows.append(row)
    return heads, rows


def text_table(results: Results, metric: str = "agreement") -> str:
    """Return the table of all points as aligned text, and the headlines below it."""
    heads, rows = table(results, metric)
    widths = [max(len(row[k]) for row in [heads, *rows]) for k in range(len(heads))]

    def line(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])

    lines = [line(heads), "  ".join("-" * width for width in widths), *map(line, rows)]
    return "\n".join([*lines, "", *(card["figure"] + " " + card["text"] for card in headlines(results, metric))])


def headlines(results: Results, metric: str = "agreement") -> list[dict[str, str]]:
    """Return a figure and a sentence for each judge's best saving: by the pre-filter, downscaling, inside the codec."""
    word = {"agreement": "agreement", "top1": "top-1"}[metric]
    own = [s for s in results.savings if s.codec == s.reference]
    inside = [s for s in results.savings if s.codec != s.reference]
    cards = []
    for judge, kind in results.points[0].judges.items():
        whose = f"{judge}, which {'made' if kind.known else 'did not make'} the map"
        for name, chosen in (
            ("the pre-filter", [s for s in own if s.strength > 0 and s.scale == 1]),
            ("downscaling alone", [s for s in own if s.strength == 0]),
            ("saliency inside the codec", [s for s in inside if s.strength == 0 and s.scale == 1]),
        ):
            asked = [s for s in chosen if s.judge == judge and s.metric == metric]
            found = [s for s in asked if s.saved is not None]
            if found:
                best = max(found, key=lambda s: s.saved or 0)
                cards.append(_card(best, name, word, whose))
            elif asked:
                cards.append(
                    {
                        "figure": "–",
                        "tone": "dim",
                        "text": f"{name} and the codec alone reach no common {word} at these qualities ({whose})",
                    }
                )
    return cards


def _card(best: Saving, name: str, word: str, whose: str) -> dict[str, str]:
    saved = best.saved or 0.0
    where = plots.setting(best.codec, best.strength, best.scale)
    verb = "fewer" if saved >= 0 else "more"
    return {
        "figure": f"{abs(saved):.0%} {verb} bytes",
        "tone": "good" if saved > 0 else "bad",
        "text": f"by {name} at equal {word}, at best ({where}, quality {best.quality:g}; {whose})",
    }


def page(
    results: Results,
    measured: Measurement,
    title: str,
    lead: str,
    class_names: Mapping[int, str],
    metric: str = "agreement",
) -> str:
    """Return the report as one self-contained HTML page.

    Args:
        results: the figures.
        measured: where they are from, for its exhibits.
        title: of the page.
        lead: a sentence or two before the figures.
        class_names: a name for every class number that a judge or a folder can give.
        metric: ``"agreement"`` or ``"top1"``: what is held equal when savings are read.

    Returns:
        The page: pictures and plots inside, readable without scripts or network.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    heads, rows = table(results, metric)
    template = Environment(autoescape=True).from_string(
        (files("foveate.evaluation") / "report.html.j2").read_text("utf-8")
    )
    figures = [plots.rate_accuracy(results, judge, metric)[0] for judge in results.clean]
    return template.render(
        title=title,
        lead=lead,
        cards=headlines(results, metric),
        plots=[Markup(plots.to_svg(figure)) for figure in figures],
        table={"heads": heads, "rows": rows},
        metric={"agreement": "agreement", "top1": "top-1"}[metric],
        n=results.points[0].n,
        skipped=results.skipped,
        exhibits=[_exhibit(e, measured, class_names) for e in measured.exhibits],
        copies=", ".join(
            sorted({c.codec.name for c in measured.compressors if c.codec.media_type not in _SHOWN_BY_BROWSERS})
        ),
        judge_names=" and ".join(results.clean),
        settings=results.settings,
        versions=results.versions,
    )


def _exhibit(exhibit: Exhibit, measured: Measurement, class_names: Mapping[int, str]) -> dict[str, Any]:
    """A picture's strips: the original and its map, then a strip a curve, from coarse to fine."""
    pixels = exhibit.photo.pixels
    size = {"width": pixels.shape[2], "height": pixels.shape[1]}

    def item(alt: str, src: str, bytes: str = "", answers: Sequence[Any] = ()) -> dict[str, Any]:
        return {"alt": alt, "src": src, "bytes": bytes, "answers": answers, **size}

    def answers(chosen: dict[str, int]) -> list[dict[str, Any]]:
        return [{"text": class_names[k], "kept": k == exhibit.clean[judge]} for judge, k in chosen.items()]

    first = [item("original", _picture(pixels), answers=answers(exhibit.clean))]
    if exhibit.saliency is not None:
        first.append(item("saliency", _picture(_overlay(pixels, exhibit.saliency))))
    first += [item(f"filtered, strength {s:g}", _picture(p)) for s, p in exhibit.filtered.items()]
    strips: dict[str, list[dict[str, Any]]] = {}
    for k, encoded in enumerate(exhibit.encoded):
        name = plots.setting(encoded.codec.family, encoded.strength, encoded.scale)
        strips.setdefault(name, []).append(
            item(
                f"{name}, quality {encoded.codec.quality:g}",
                _bitstream(encoded.codec.media_type, encoded.data, measured, k, exhibit),
                f"{len(encoded.data):,} bytes",
                answers({judge: chosen[k] for judge, chosen in exhibit.answers.items()}),
            )
        )
    label = class_names[exhibit.photo.label]
    return {"title": f"{exhibit.photo.name}: {label}", "strips": [first, *strips.values()]}


def _bitstream(media_type: str, data: bytes, measured: Measurement, point: int, exhibit: Exhibit) -> str:
    if media_type in _SHOWN_BY_BROWSERS:
        return _uri(media_type, data)
    return _picture(measured.compressors[point].decode([exhibit.encoded[point]])[0])


def _picture(pixels: Tensor) -> str:
    """A picture for the page, at most 480 pixels wide, as fine WebP: a display copy, never a measured rate."""
    picture = Image.fromarray(to_array(pixels if pixels.shape[0] == 3 else pixels.expand(3, -1, -1)))
    picture.thumbnail((480, 480))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=90)
    return _uri("image/webp", stream.getvalue())


def _overlay(pixels: Tensor, saliency: Tensor) -> Tensor:
    """The picture in grey, brightened and coloured where the map is high."""
    from matplotlib import colormaps

    height, width = pixels.shape[-2:]
    heat = resize(saliency[None], (height, width))[0, 0].clamp(0, 1)
    colours = torch.from_numpy(colormaps["inferno"](heat.numpy())[..., :3].astype(np.float32)).permute(2, 0, 1)
    grey = pixels.float().mean(0, keepdim=True) / 255
    return 0.4 * grey + 0.6 * colours


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
