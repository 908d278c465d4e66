import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope.errors import NonFiniteError
from bathyscope.metrics.latents import LatentCounts

VALUES = torch.tensor([[1.0, 0.5], [2.0, 0.0], [0.1, 3.0]])
INDICES = torch.tensor([[0, 2], [2, 0], [2, 4]])


def counted(counts, num_rows):
    metric = LatentCounts(len(counts))
    metric.counts, metric.num_rows = torch.tensor(counts), num_rows
    return metric


def test_padding_does_not_count():
    metric = LatentCounts(5)
    metric.update(VALUES, INDICES)

    assert metric.counts.tolist() == [1, 0, 3, 0, 1]
    assert metric.density().tolist() == [1 / 3, 0, 1, 0, 1 / 3]
    assert metric.dead_share() == (2 / 5, 2, 3)


def test_padding_may_hold_any_index():
    metric = LatentCounts(5)
    metric.update(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[-1, 4, 99]], dtype=torch.int32))

    assert metric.counts.tolist() == [0, 0, 0, 0, 1]


def test_shares_above_are_strict_at_exactly_one_and_ten_percent():
    found = counted([10, 11, 100, 101, 0], 1000).results()

    assert found["share_above_1_percent"] == 3 / 5
    assert found["share_above_10_percent"] == 1 / 5
    assert found["dead_share"] == 1 / 5
    assert found["dead_judged_on_rows"] == 1000
    assert found["mean_density"] == pytest.approx(222 / 5000)


def test_the_histogram_puts_each_density_in_its_decade():
    # densities 1, 0.5, 0.02, 0.001 and 1e-6 with one bin per decade from 1e-4 up.
    histogram = counted([10**6, 500_000, 20_000, 1000, 1, 0, 0], 10**6).density_histogram(
        lowest=-4, bins_per_decade=1
    )

    assert histogram.log10_edges.tolist() == [-4, -3, -2, -1, 0]
    # 1e-6 lies under the lowest edge and joins the first bin; 1.0 closes the last.
    assert histogram.counts.tolist() == [1, 1, 1, 2]
    assert histogram.never == 2


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, 1.0])), min_size=2, max_size=2),
        min_size=1,
        max_size=9,
    ),
    cut=st.integers(0, 9),
)
def test_merged_parts_equal_the_whole(rows, cut):
    indices = torch.tensor([[index for index, _ in row] for row in rows])
    values = torch.tensor([[value for _, value in row] for row in rows])
    parts = [LatentCounts(7), LatentCounts(7)]
    parts[0].update(values[:cut], indices[:cut])
    parts[1].update(values[cut:], indices[cut:])
    parts[0].merge(parts[1])
    wanted = [sum((index, value) == (i, 1.0) for r in rows for index, value in r) for i in range(7)]

    assert parts[0].counts.tolist() == wanted
    assert parts[0].num_rows == len(rows)


def test_json_gives_the_same_state():
    metric = counted([0, 3, 70_000], 80_000)
    copy = LatentCounts.from_dict(json.loads(json.dumps(metric.to_dict())))

    assert copy.results() == metric.results()
    assert copy.counts.dtype == torch.int64


def test_bad_rows_are_refused():
    metric = LatentCounts(4)
    with pytest.raises(ValueError, match=r"from 0 to 4: wanted 0 to 3"):
        metric.update(VALUES, INDICES)
    with pytest.raises(ValueError, match=r"wanted both as \[rows, k\]"):
        metric.update(VALUES, INDICES[:2])
    with pytest.raises(NonFiniteError, match="values of shape"):
        metric.update(torch.tensor([[float("nan")]]), torch.tensor([[0]]))
    with pytest.raises(ValueError, match="cannot merge counts of 5 latents into 4"):
        metric.merge(LatentCounts(5))
    with pytest.raises(ValueError, match="lowest < highest"):
        counted([1], 1).density_histogram(lowest=0)
    with pytest.raises(ValueError, match="at least 1"):
        LatentCounts(0)


@pytest.mark.parametrize(
    "figure", [LatentCounts.density, LatentCounts.dead_share, LatentCounts.results]
)
def test_no_rows_is_said(figure):
    metric = LatentCounts(4)
    metric.update(torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.int64))

    with pytest.raises(ValueError, match="no rows were counted"):
        figure(metric)
