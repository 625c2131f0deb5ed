"""Curves compared: against the package ``bjontegaard`` on published vectors, and by hand."""

import math

import bjontegaard
import numpy as np
import pytest
import torch

from foveate.evaluation import (
    Bootstrap,
    NoOverlapError,
    bd_accuracy,
    bd_rate,
    interval,
    overlap,
    rate_at,
    saved_at_equal,
)
from foveate.evaluation._bootstrap import resampled
from foveate.evaluation.curves import saved_or_beyond

# Rate (kbit/s) and PSNR (dB): the example that circulates with implementations of VCEG-M33, and one of HEVC.
VECTORS = {
    "vceg": (
        [686.76, 309.58, 157.11, 85.95], [40.28, 37.18, 34.24, 31.42],
        [893.34, 407.8, 204.93, 112.75], [40.39, 37.21, 34.17, 31.24],
    ),
    "hevc": (
        [9487.76, 4593.60, 2486.44, 1358.24], [40.037, 38.615, 36.845, 34.851],
        [9787.80, 4469.00, 2451.52, 1356.24], [40.121, 38.651, 36.970, 34.987],
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", ["pchip", "akima"])
@pytest.mark.parametrize("vector", VECTORS)
class TestAgainstBjontegaard:
    def test_rate(self, vector, method):
        theirs = bjontegaard.bd_rate(*VECTORS[vector], method=method, min_overlap=0)
        assert 100 * bd_rate(*VECTORS[vector], method=method) == pytest.approx(theirs, abs=1e-6)

    def test_accuracy(self, vector, method):
        theirs = bjontegaard.bd_psnr(*VECTORS[vector], method=method, min_overlap=0)
        assert bd_accuracy(*VECTORS[vector], method=method) == pytest.approx(theirs, abs=1e-6)


class TestBdRate:
    rates, accuracies = [100, 200, 400, 800], [0.3, 0.6, 0.8, 0.9]

    @pytest.mark.parametrize("factor", [0.7, 1, 1.5])
    def test_a_constant_factor(self, factor):
        test = [factor * r for r in self.rates]
        assert bd_rate(self.rates, self.accuracies, test, self.accuracies) == pytest.approx(factor - 1)

    def test_swapping_inverts(self):
        other = [0.35, 0.62, 0.7, 0.92]
        there = bd_rate(self.rates, self.accuracies, self.rates, other)
        back = bd_rate(self.rates, other, self.rates, self.accuracies)
        assert (1 + there) * (1 + back) == pytest.approx(1)

    def test_where_a_curve_dips_it_is_what_can_be_reached(self):
        dip = bd_rate([100, 200, 300, 400, 800], [0.3, 0.6, 0.55, 0.8, 0.9], self.rates, self.accuracies)
        assert dip == pytest.approx(0)
        plateau = bd_rate([100, 200, 300, 400, 800], [0.3, 0.6, 0.6, 0.8, 0.9], self.rates, self.accuracies)
        assert plateau == pytest.approx(0)

    def test_over_the_overlap_only(self):
        longer = bd_rate(self.rates, self.accuracies, [*self.rates, 5000], [*self.accuracies, 0.9001])
        assert longer == pytest.approx(0, abs=0.02)
        assert overlap(self.rates, self.accuracies, [1, 2], [0.7, 0.95]) == (0.7, 0.9)

    @pytest.mark.parametrize(
        ("accuracies", "side", "words"),
        [([0.95, 0.96], 1, "no accuracy in common"), ([0.1, 0.3], -1, "0.300 to 0.900 and 0.100 to 0.300"),
         ([0.5, 0.5], 0, "the test curve does not rise")],
    )  # fmt: skip
    def test_without_one_it_is_refused_with_the_reason(self, accuracies, side, words):
        with pytest.raises(NoOverlapError, match=words) as refused:
            bd_rate(self.rates, self.accuracies, [100, 200], accuracies)
        assert refused.value.side == side
        with pytest.raises(NoOverlapError, match="no rates in common"):
            bd_accuracy(self.rates, self.accuracies, [1, 2], [0.1, 0.2])

    def test_two_points_at_one_rate_count_as_the_better(self):
        assert bd_rate([100, 100, 400], [0.2, 0.3, 0.8], [100, 400], [0.3, 0.8]) == pytest.approx(0)
        assert bd_accuracy([100, 100, 400], [0.2, 0.3, 0.8], [100, 400], [0.3, 0.8]) == pytest.approx(0)

    def test_wrong_input(self):
        with pytest.raises(ValueError, match="'pchip' or 'akima', got 'cubic'"):
            bd_rate(self.rates, self.accuracies, self.rates, self.accuracies, method="cubic")
        with pytest.raises(ValueError, match="at least 2, with positive rates"):
            bd_rate([1], [1], self.rates, self.accuracies)
        with pytest.raises(ValueError, match="positive rates"):
            bd_accuracy([0, 1], [0, 1], self.rates, self.accuracies)


class TestSavedAtEqual:
    def test_a_constant_factor_shows_everywhere(self):
        rates, accuracies = [100, 200, 400, 800], [0.3, 0.6, 0.8, 0.9]
        for rate, accuracy in zip(rates, accuracies, strict=True):
            assert saved_at_equal(rates, accuracies, 0.7 * rate, accuracy) == pytest.approx(0.3)
            assert saved_at_equal(rates, accuracies, 1.5 * rate, accuracy) == pytest.approx(-0.5)

    def test_between_points_the_log_of_the_rate_is_linear(self):
        assert saved_at_equal([100, 10000], [0.0, 1.0], 500, 0.5) == pytest.approx(0.5)

    def test_order_does_not_matter(self):
        assert saved_at_equal([400, 100], [0.8, 0.4], 100, 0.6) == saved_at_equal([100, 400], [0.4, 0.8], 100, 0.6)

    def test_a_dip_is_read_in_the_reference_s_favor(self):
        assert saved_at_equal([100, 200, 400], [0.5, 0.4, 0.9], 90, 0.5) == pytest.approx(0.1)

    def test_a_plateau_ends_at_its_cheapest_point(self):
        assert saved_at_equal([100, 200, 400], [0.5, 0.9, 0.9], 100, 0.9) == pytest.approx(0.5)

    @pytest.mark.parametrize(("accuracy", "side"), [(0.3, -math.inf), (0.95, math.inf), (math.nan, math.nan)])
    def test_outside_the_curve_there_is_nothing_to_compare(self, accuracy, side):
        assert saved_at_equal([100, 400], [0.5, 0.9], 50, accuracy) is None
        assert saved_or_beyond([100, 400], [0.5, 0.9], 50, accuracy) == pytest.approx(side, nan_ok=True)

    def test_a_flat_curve_compares_with_nothing(self):
        assert saved_at_equal([100, 400], [0.5, 0.5], 50, 0.5) is None

    @pytest.mark.parametrize(("rates", "accuracies"), [([1], [1]), ([1, 2], [1]), ([0, 1], [0, 1])])
    def test_what_is_not_a_curve(self, rates, accuracies):
        with pytest.raises(ValueError, match="at least 2"):
            saved_at_equal(rates, accuracies, 1, 1)


class TestRateAt:
    @pytest.mark.parametrize(
        ("rates", "accuracies", "floor", "rate"),
        [
            ([100, 200, 400], [0.9, 0.5, 0.9], 0.9, 100),
            ([400, 100, 200], [0.9, 0.7, 0.5], 0.8, 200),
            ([100, 400], [0.5, 0.5], 0.5, 100),
            ([100, 400], [0.5, 0.9], 0.2, 100),
            ([100], [0.5], 0.6, math.inf),
        ],
    )
    def test_by_hand(self, rates, accuracies, floor, rate):
        assert rate_at(rates, accuracies, floor) == pytest.approx(rate)


class TestBootstrap:
    def test_against_scipy(self):
        from scipy.stats import bootstrap

        values = torch.randn(80, generator=torch.Generator().manual_seed(5)) + 3
        ours = interval(Bootstrap(80, resamples=4000).means(values[None])[:, 0])
        theirs = bootstrap((values.numpy(),), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
        assert ours == pytest.approx((theirs.low, theirs.high), abs=0.03)

    def test_it_is_paired(self):
        """Two quantities that differ by a constant differ by it in every resample."""
        values = torch.rand(40)
        means = Bootstrap(40).means(torch.stack([values, values + 0.25]))
        np.testing.assert_allclose(means[:, 1] - means[:, 0], 0.25)

    def test_it_covers_what_is_true(self):
        """About 95 of 100 intervals hold the mean they estimate."""
        generator = torch.Generator().manual_seed(1)
        hits = 0
        for k in range(200):
            low, high = interval(
                Bootstrap(100, seed=k, resamples=400).means(torch.rand(1, 100, generator=generator))[:, 0]
            )
            hits += low <= 0.5 <= high
        assert 180 <= hits <= 198

    def test_the_same_for_a_seed_and_no_other_generator_is_touched(self):
        values = torch.rand(3, 50)
        before = torch.get_rng_state()
        first = Bootstrap(50, seed=4).means(values)
        assert torch.equal(before, torch.get_rng_state())
        assert (first == Bootstrap(50, seed=4).means(values)).all()
        assert (first != Bootstrap(50, seed=5).means(values)).any()
        # In blocks or at once.
        np.testing.assert_array_equal(first[:100], Bootstrap(50, seed=4, resamples=100).means(values))

    def test_what_lies_outside_opens_the_interval_on_that_side(self):
        body = np.linspace(0, 1, 90)
        assert interval(np.concatenate([body, np.full(10, np.inf)]))[1] is None
        assert interval(np.concatenate([body, np.full(10, np.inf)]))[0] == pytest.approx(0.02, abs=0.02)
        assert interval(np.concatenate([body, np.full(10, -np.inf)]))[0] is None
        assert interval(np.concatenate([body, np.full(10, np.nan)])) == (None, None)

    def test_curves_without_overlap_are_outside(self):
        def figure(k):
            if k < 2:
                raise NoOverlapError("", (1, 0)[k])
            return 0.5

        np.testing.assert_array_equal(resampled(figure, 3, better=-1), [-np.inf, np.nan, 0.5])

    @pytest.mark.parametrize(("n", "resamples"), [(0, 10), (10, 0)])
    def test_nothing_to_draw(self, n, resamples):
        with pytest.raises(ValueError, match="at least 1"):
            Bootstrap(n, resamples=resamples)
