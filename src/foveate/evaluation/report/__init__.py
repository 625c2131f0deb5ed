"""Results in words, as a table for the terminal, and as one self-contained page."""

from foveate.evaluation.report._answer import answer
from foveate.evaluation.report._page import page
from foveate.evaluation.report._table import table, text_answer, text_table
from foveate.evaluation.report._words import (
    Card,
    Line,
    Section,
    Tone,
    headlines,
    rate_controls,
    role,
    span,
    verdict,
    verdicts,
)

__all__ = [
    "Card",
    "Line",
    "Section",
    "Tone",
    "answer",
    "headlines",
    "page",
    "rate_controls",
    "role",
    "span",
    "table",
    "text_answer",
    "text_table",
    "verdict",
    "verdicts",
]
