"""Conformance tests for criteria."""

import pickle
from typing import ClassVar

import pytest
import torch

from foveate.identity import identity
from foveate.rate_control import Criterion, as_criteria


class CriterionConformance:
    """Tests for a criterion: subclass it and set ``criterion``.

    To test several at once, override the fixture ``text``.

    Attributes:
        criterion: its short string, for example ``"top1"`` or ``"kl0.2"``.
    """

    criterion: ClassVar[str]

    @pytest.fixture
    def text(self) -> str:
        """The short string under test."""
        return self.criterion

    def test_its_string_reads_back(self, text: str) -> None:
        """A criterion's short string parses back to the same criterion."""
        (criterion,) = as_criteria(text)
        assert isinstance(criterion, Criterion)
        assert str(criterion) == text
        assert as_criteria(str(criterion)) == (criterion,)

    def test_one_boolean_an_image(self, text: str) -> None:
        """(N, classes) logits give (N,) booleans, each for its own image."""
        clean, logits = _logits()
        (criterion,) = as_criteria(text)
        holds = criterion(clean, logits)
        assert (holds.shape, holds.dtype) == ((8,), torch.bool)
        apart = [criterion(clean[k : k + 1], logits[k : k + 1]) for k in range(8)]
        assert torch.equal(holds, torch.cat(apart))

    def test_the_clean_answer_keeps_itself(self, text: str) -> None:
        """Unchanged logits meet a criterion that sets a limit, if the answer is clear."""
        (criterion,) = as_criteria(text)
        if criterion.price is not None:
            pytest.skip("it sets a price, and no limit")
        clean = 40 * torch.eye(6)
        assert bool(criterion(clean, clean).all())

    def test_nan_does_not_hold(self, text: str) -> None:
        """NaN logits never meet a criterion."""
        clean, logits = _logits()
        (criterion,) = as_criteria(text)
        assert not bool(criterion(clean, torch.full_like(logits, torch.nan)).any())

    def test_inputs_are_not_touched(self, text: str) -> None:
        """Logits are shared with other criteria."""
        clean, logits = _logits()
        before = clean.clone(), logits.clone()
        (criterion,) = as_criteria(text)
        criterion.measure(clean, logits)
        assert torch.equal(clean, before[0])
        assert torch.equal(logits, before[1])

    def test_it_has_an_identity_and_travels_to_workers(self, text: str) -> None:
        """It is pickled with its measure, and its identity survives."""
        (criterion,) = as_criteria(text)
        clean, logits = _logits()
        restored = pickle.loads(pickle.dumps(criterion))
        assert torch.equal(restored.measure(clean, logits), criterion.measure(clean, logits))
        assert identity(restored) == identity(criterion)
        assert restored.measure_name == criterion.measure_name


def _logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = 3 * torch.randn(8, 6, generator=generator)
    return clean, clean + 2 * torch.randn(8, 6, generator=generator)
