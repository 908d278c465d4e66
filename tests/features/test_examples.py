import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope.errors import NonFiniteError
from bathyscope.features.examples import SampledExamples, TopExamples, firing_hash

NUM_LATENTS = 5


def random_rows(num_rows, *, seed=0, k=2):
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.permutation(NUM_LATENTS)[:k] for _ in range(num_rows)])
    # Few distinct values, so that ties are common; zeros are padding.
    values = rng.integers(-1, 5, size=(num_rows, k)).astype(np.float32) / 4
    return values, indices, np.arange(num_rows)


def brute_force_top(values, indices, rows, *, num_examples, rows_per_item):
    """Sort everything by (-value, row) and take the first row of each item."""
    found = []
    for latent in range(NUM_LATENTS):
        hits = np.argwhere((indices == latent) & (values != 0))
        ranked = sorted((-float(values[r, s]), int(rows[r])) for r, s in hits)
        best = {}
        for negative, row in ranked:
            best.setdefault(row // rows_per_item, (row, -negative))
        chosen = list(best.values())[:num_examples]
        found.append(chosen + [(-1, 0.0)] * (num_examples - len(chosen)))
    return found


def pairs(examples):
    return [
        list(zip(rows, values, strict=True))
        for rows, values in zip(examples.rows.tolist(), examples.values.tolist(), strict=True)
    ]


def test_the_largest_row_of_each_item_worked_by_hand():
    # Items of 3 rows. Latent 0 fires with 1, 5, 2 in item 0, 5 in item 1, 4 in item 2.
    top = TopExamples(1, 2, rows_per_item=3)
    values = np.array([[1.0], [5.0], [2.0], [5.0], [0.0], [4.0]])
    top.update(values, np.zeros((6, 1), dtype=int), np.array([0, 1, 2, 4, 5, 7]))

    assert top.rows.tolist() == [[1, 4]]
    assert top.values.tolist() == [[5.0, 5.0]]


def test_negative_activations_rank_last():
    top = TopExamples(1, 4)
    values = np.array([[-2.0], [0.5], [-0.25], [0.0]])
    top.update(values, np.zeros((4, 1), dtype=int), np.arange(4))

    assert top.rows.tolist() == [[1, 2, 0, -1]]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 100),
    order_seed=st.integers(0, 100),
    cuts=st.lists(st.integers(0, 37), max_size=4),
    rows_per_item=st.sampled_from([1, 3, 8]),
    merged=st.booleans(),
)
def test_any_order_and_split_gives_the_brute_force_state(
    seed, order_seed, cuts, rows_per_item, merged
):
    stream = random_rows(37, seed=seed)
    order = np.random.default_rng(order_seed).permutation(37)
    wanted = brute_force_top(*stream, num_examples=3, rows_per_item=rows_per_item)
    top = TopExamples(NUM_LATENTS, 3, rows_per_item=rows_per_item)
    for part in np.split(order, sorted(cuts)):
        block = [column[part] for column in stream]
        if merged:
            other = TopExamples(NUM_LATENTS, 3, rows_per_item=rows_per_item)
            other.update(*block)
            top.merge(other)
        else:
            top.update(*block)

    assert pairs(top) == wanted


def test_rows_that_come_twice_count_once():
    stream = random_rows(37)
    top, sampled = TopExamples(NUM_LATENTS, 9), SampledExamples(NUM_LATENTS, 9, seed=1)
    for examples in (top, sampled):
        examples.update(*stream)
        before = examples.rows.copy()
        examples.update(*stream)
        assert np.array_equal(examples.rows, before)


@settings(max_examples=40, deadline=None)
@given(
    order_seed=st.integers(0, 100),
    cuts=st.lists(st.integers(0, 37), max_size=4),
    merged=st.booleans(),
)
def test_the_sample_does_not_depend_on_order_or_split(order_seed, cuts, merged):
    stream = random_rows(37)
    whole = SampledExamples(NUM_LATENTS, 4, seed=9)
    whole.update(*stream)
    order = np.random.default_rng(order_seed).permutation(37)
    parts = SampledExamples(NUM_LATENTS, 4, seed=9)
    for part in np.split(order, sorted(cuts)):
        block = [column[part] for column in stream]
        if merged:
            other = SampledExamples(NUM_LATENTS, 4, seed=9)
            other.update(*block)
            parts.merge(other)
        else:
            parts.update(*block)

    assert pairs(parts) == pairs(whole)


def test_the_sample_is_uniform_over_rows_and_latents():
    # 400 latents fire on the same 50 rows; each keeps 10, so each row is kept 80 times on average.
    num_latents, num_rows = 400, 50
    values = np.ones((num_rows, num_latents), dtype=np.float32)
    indices = np.broadcast_to(np.arange(num_latents), values.shape)
    sampled = SampledExamples(num_latents, 10, seed=0)
    sampled.update(values, indices, np.arange(num_rows))

    kept = np.bincount(sampled.rows.ravel(), minlength=num_rows)
    chi_square = ((kept - 80) ** 2 / 80).sum() / (1 - 10 / 50)
    # 49 degrees of freedom: mean 49, deviation 9.9.
    assert 49 - 4 * 9.9 < chi_square < 49 + 4 * 9.9
    # Independent draws of 10 from 50 share 2 on average; deviation of this mean is about 0.06.
    shared = np.mean([len(np.intersect1d(a, b)) for a, b in sampled.rows.reshape(200, 2, 10)])
    assert shared == pytest.approx(2.0, abs=0.3)


def test_another_seed_draws_another_sample():
    stream = random_rows(200)
    states = []
    for seed in (0, 1, -1):
        sampled = SampledExamples(NUM_LATENTS, 8, seed=seed)
        sampled.update(*stream)
        states.append(sampled.rows.tolist())

    assert states[0] != states[1] != states[2] != states[0]


def test_the_hash_is_splitmix64():
    # The published generator seeded with 0 starts with e220a8397b1dcdaf. With seed 0, row r and
    # latent l the hash is s(s(s(0) ^ r) ^ l), where s adds the golden gamma and mixes.
    mask = (1 << 64) - 1

    def step(state):
        state = (state + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        return state ^ (state >> 31)

    assert step(0) == 0xE220A8397B1DCDAF
    found = firing_hash(np.array([7]), np.array([123_456_789_012]), seed=0)
    assert int(found[0]) + (1 << 63) == step(step(step(0) ^ 123_456_789_012) ^ 7)


def test_bands_worked_by_hand():
    sampled = SampledExamples(2, 6, seed=0)
    values = np.array([[3.0], [1.0], [5.0], [3.0], [2.0]])
    sampled.update(values, np.zeros((5, 1), dtype=int), np.array([10, 11, 12, 9, 14]))

    found = sampled.quantile_bands(2)

    assert found.rows.tolist() == [[12, 9, 10, 14, 11, -1], [-1] * 6]
    assert found.values[0].tolist() == [5.0, 3.0, 3.0, 2.0, 1.0, 0.0]
    # floor(i · 2 / 5) for i = 0..4.
    assert found.bands.tolist() == [[0, 0, 0, 1, 1, -1], [-1] * 6]


def test_more_bands_than_samples_leave_bands_empty():
    sampled = SampledExamples(1, 2, seed=0)
    sampled.update(np.array([[1.0], [2.0]]), np.zeros((2, 1), dtype=int), np.arange(2))

    assert sampled.quantile_bands(4).bands.tolist() == [[0, 2]]
    with pytest.raises(ValueError, match="num_bands is 0"):
        sampled.quantile_bands(0)


def test_arrays_give_a_state_that_goes_on():
    first, second = random_rows(20, seed=1), random_rows(20, seed=2)
    second = (*second[:2], second[2] + 20)
    top = TopExamples(NUM_LATENTS, 3, rows_per_item=4)
    sampled = SampledExamples(NUM_LATENTS, 3, seed=4)
    top.update(*first)
    sampled.update(*first)
    top_copy = TopExamples.from_arrays(top.to_arrays(), rows_per_item=4)
    sampled_copy = SampledExamples.from_arrays(sampled.to_arrays())
    for examples in (top, top_copy, sampled, sampled_copy):
        examples.update(*second)

    assert pairs(top_copy) == pairs(top)
    assert pairs(sampled_copy) == pairs(sampled)


def test_what_cannot_be_merged_is_refused():
    top, sampled = TopExamples(3, 2), SampledExamples(3, 2, seed=0)
    with pytest.raises(ValueError, match=r"\(3, 2, 5\) into \(3, 2, 1\)"):
        top.merge(TopExamples(3, 2, rows_per_item=5))
    with pytest.raises(ValueError, match=r"\(4, 2, 1\) into \(3, 2, 1\)"):
        sampled.merge(SampledExamples(4, 2, seed=0))
    with pytest.raises(ValueError, match="seed 1 into one of 0"):
        sampled.merge(SampledExamples(3, 2, seed=1))


def test_nan_is_refused_and_changes_nothing():
    stream = random_rows(9)
    bad = (np.full((1, 2), np.nan), np.array([[0, 1]]), np.array([3]))
    for examples in (TopExamples(NUM_LATENTS, 2), SampledExamples(NUM_LATENTS, 2, seed=0)):
        examples.update(*stream)
        before = pairs(examples)
        with pytest.raises(NonFiniteError):
            examples.update(*bad)
        assert pairs(examples) == before


def test_an_empty_stream_keeps_nothing():
    top = TopExamples(2, 2)
    top.update(np.zeros((0, 3)), np.zeros((0, 3), dtype=int), np.zeros(0, dtype=int))
    top.merge(TopExamples(2, 2))

    assert top.rows.tolist() == [[-1, -1], [-1, -1]]
