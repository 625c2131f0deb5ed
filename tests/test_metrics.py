"""Metrics on torchmetrics: cloned, pickled, and added up over two processes as over one."""

import json
import pickle

import pytest
import torch
from metric_cases import METRICS, batch, count_in_a_group, fed, feed, flat

import foveate
from foveate.evaluation import NoOverlapError, bd_rate
from foveate.evaluation.metrics import BDRate, BitsPerPixel, RateAccuracy


@pytest.mark.parametrize("name", METRICS)
class TestAnyMetric:
    def test_clone_and_pickle(self, name):
        metric = fed(name, range(4))
        for other in (metric.clone(), pickle.loads(pickle.dumps(metric))):
            torch.testing.assert_close(flat(other.compute()), flat(metric.compute()))
            feed(other, 4)
            feed(metric.clone(), 4)
        torch.testing.assert_close(flat(other.compute()), flat(fed(name, range(5)).compute()))
        assert not torch.equal(flat(other.compute()), flat(metric.compute()))

    def test_reset(self, name):
        metric = fed(name, range(4))
        metric.reset()
        for k in range(3):
            feed(metric, k)
        torch.testing.assert_close(flat(metric.compute()), flat(fed(name, range(3)).compute()))

    def test_state_dict_and_float_casts(self, name):
        metric = fed(name, range(4))
        metric.persistent(True)
        other = METRICS[name]()
        other.load_state_dict(metric.state_dict())
        torch.testing.assert_close(flat(other.half().compute()), flat(metric.compute()))


def test_two_processes_are_as_one(tmp_path):
    torch.multiprocessing.spawn(count_in_a_group, (2, tmp_path), nprocs=2)
    values = json.loads((tmp_path / "values.json").read_text())
    for name in METRICS:
        assert values[name] == pytest.approx(flat(fed(name, range(5)).compute()).tolist())


class TestBitsPerPixel:
    def test_bitstreams(self):
        encoded = foveate.Compressor("jpeg:30").encode([torch.rand(3, 40, 50), torch.rand(3, 20, 30)])
        metric = BitsPerPixel()
        metric.update(encoded)
        assert float(metric.compute()) == pytest.approx(8 * sum(len(e.data) for e in encoded) / (2000 + 600))

    def test_pooled_not_averaged(self):
        metric = BitsPerPixel()
        metric.update(10, 10)
        metric.update(torch.tensor([10, 0]), torch.tensor([80, 0]))
        assert float(metric.compute()) == pytest.approx(160 / 90)

    def test_wrong_input(self):
        with pytest.raises(ValueError, match="beside the lengths"):
            BitsPerPixel().update(torch.tensor([3]))
        with pytest.raises(ValueError, match="expected 1, as many"):
            BitsPerPixel().update(torch.tensor([3]), torch.tensor([3, 4]))
        with pytest.raises(ValueError, match="expected None"):
            BitsPerPixel().update(foveate.Compressor().encode(torch.rand(1, 3, 8, 8)), torch.tensor([64]))


class TestRateAccuracy:
    def test_by_hand(self):
        curve = fed("curve", range(3)).compute()
        parts = [batch(k) for k in range(3)]
        for n, amount in enumerate((3.0, 0.3, 2.5, 0.2)):
            right = torch.cat([(c + amount * e).argmax(1) == y for c, e, y, _, _ in parts])
            assert float(curve["top1"][n]) == pytest.approx(float(right.float().mean()))
            assert float(curve["agreement"][n]) == pytest.approx(
                float(curve["top1"][n])
            )  # labels are the clean answers
            mean = torch.cat([(1 + n % 2) * s for *_, s, _ in parts]).double().mean()
            assert float(curve["bytes"][n]) == pytest.approx(float(mean))
            assert float(curve["bpp"][n]) == pytest.approx(8 * float(mean) / 1200)

    def test_wrong_input(self):
        with pytest.raises(ValueError, match="different names"):
            RateAccuracy(["a", "a"])
        metric = RateAccuracy(["a"])
        labels = torch.ones(2, dtype=torch.int64)
        with pytest.raises(ValueError, match="expected one of a, got 'b'"):
            metric.update("b", torch.eye(2), labels, labels, labels)
        with pytest.raises(ValueError, match="N bitstreams, got"):
            metric.update("a", torch.eye(2), labels, torch.ones(3), torch.ones(3))
        with pytest.raises(ValueError, match="clean"):
            metric.update("a", torch.eye(2), labels, labels, labels, torch.eye(3))


class TestBDRate:
    def test_it_is_the_function_s(self):
        curve = fed("curve", range(6)).compute()
        rates, shares = curve["bytes"].tolist(), curve["top1"].tolist()
        expected = bd_rate(rates[:2], shares[:2], rates[2:], shares[2:])
        assert float(fed("bd", range(6)).compute()) == pytest.approx(expected, rel=1e-5)

    def test_before_all_points_are_counted(self):
        metric = BDRate(["a", "b"], ["c", "d"])
        with pytest.raises(ValueError, match="not all were counted"):
            metric.compute()

    def test_without_overlap(self):
        metric = BDRate(["a", "b"], ["c", "d"])
        label, size = torch.tensor([0]), torch.tensor([9])
        for name in "abcd":
            metric.update(name, torch.eye(2)[:1], label, size, size)
        with pytest.raises(NoOverlapError, match="does not rise"):
            metric.compute()

    def test_wrong_input(self):
        with pytest.raises(ValueError, match="two points each, got 1 and 2"):
            BDRate(["a"], ["b", "c"])
        with pytest.raises(ValueError, match="'agreement' or 'top1'"):
            BDRate(["a", "b"], ["c", "d"], metric="top5")
