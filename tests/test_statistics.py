"""Statistics: hand cases, agreement with scipy, and properties of intervals."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from marl_bench.report import statistics as s
from marl_bench.report.boundary import collapse_boundary

FAST = settings(max_examples=25, deadline=None)
numbers = st.floats(-100.0, 100.0, allow_nan=False).map(lambda value: round(value, 3))
samples = st.lists(numbers, min_size=2, max_size=12)


# --- one sample ---------------------------------------------------------------------------------


def test_normal_interval_by_hand():
    # mean 2, sample sd 1, n 3: half width 1.96 / sqrt(3) = 1.13161
    interval = s.normal_interval([1.0, 2.0, 3.0])
    assert interval.estimate == 2.0
    assert interval.high - 2.0 == pytest.approx(1.1316065, abs=1e-6)
    assert 2.0 - interval.low == pytest.approx(1.1316065, abs=1e-6)
    assert interval.n == 3


def test_normal_interval_of_one_value_has_no_width_to_offer():
    interval = s.normal_interval([0.4])
    assert interval.estimate == 0.4
    assert np.isnan(interval.low) and np.isnan(interval.high)


def test_normal_band_skips_missing_entries_pointwise():
    mean, low, high, n = s.normal_band([[1.0, np.nan, np.nan], [2.0, 5.0, np.nan], [3.0, 7.0, np.nan]])
    np.testing.assert_array_equal(n, [3, 2, 0])
    np.testing.assert_allclose(mean, [2.0, 6.0, np.nan])
    # sd of (5, 7) is sqrt(2); 1.96 * sqrt(2) / sqrt(2) = 1.96
    np.testing.assert_allclose(high - mean, [1.1316065, 1.96, np.nan], atol=1e-6)
    np.testing.assert_allclose(mean - low, [1.1316065, 1.96, np.nan], atol=1e-6)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 30])
def test_iqm_equals_scipys_trimmed_mean(n):
    values = np.random.default_rng(n).standard_normal((6, n))
    np.testing.assert_allclose(s.iqm(values, axis=-1), scipy.stats.trim_mean(values, 0.25, axis=-1), rtol=1e-12)
    assert s.iqm(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25, axis=None), rel=1e-12)


def test_iqm_by_hand():
    assert s.iqm([100.0, 1.0, 2.0, -50.0]) == 1.5  # drops one at each end
    assert s.iqm([3.0, 1.0, 2.0]) == 2.0  # floor(3 / 4) = 0 dropped


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bootstrap_agrees_with_scipy(statistic):
    values = np.random.default_rng(1).gamma(2.0, 1.0, 40)
    ours = s.bootstrap_interval(values, statistic, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,), statistic, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.estimate == statistic(values)
    assert ours.low == pytest.approx(theirs.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)


def test_bootstrap_depends_on_seed_only():
    values = np.random.default_rng(0).random(40)
    assert s.bootstrap_interval(values, seed=3) == s.bootstrap_interval(values, seed=3)
    assert s.bootstrap_interval(values, seed=3) != s.bootstrap_interval(values, seed=4)


@FAST
@given(samples, st.randoms(use_true_random=False), st.sampled_from([np.mean, np.median, s.iqm]))
def test_bootstrap_properties(values, random, statistic):
    wide = s.bootstrap_interval(values, statistic, resamples=200, confidence=0.99)
    narrow = s.bootstrap_interval(values, statistic, resamples=200, confidence=0.6)
    assert wide.low <= narrow.low <= narrow.estimate <= narrow.high <= wide.high
    assert min(values) - 1e-9 <= wide.low and wide.high <= max(values) + 1e-9
    shuffled = list(values)
    random.shuffle(shuffled)
    assert s.bootstrap_interval(shuffled, statistic, resamples=200, confidence=0.99) == wide


def test_chunking_covers_every_resample(monkeypatch):
    from marl_bench.report import resampling

    monkeypatch.setattr(resampling, "_CHUNK", 100)
    assert sum(resampling.chunks(57, 9)) == 57
    drawn = resampling.bootstrap_distribution([np.arange(9.0)], lambda d: d[0].mean(axis=-1), 57, 0)
    assert drawn.shape == (57,)


# --- fractions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (1, 10), (15, 30), (81, 263)])
def test_wilson_equals_scipy(successes, n):
    theirs = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    ours = s.wilson_interval(successes, n)
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


@FAST
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_properties(counts):
    wide, narrow = s.wilson_interval(*counts, confidence=0.99), s.wilson_interval(*counts, confidence=0.5)
    assert 0.0 <= wide.low <= narrow.low <= narrow.estimate <= narrow.high <= wide.high <= 1.0
    assert wide.high > wide.low


def test_newcombe_equals_published_example():
    # Newcombe 1998, table II, row a: 56/70 - 48/80, method 10: 0.0524 to 0.3339
    interval = s.difference_of_fractions_interval(56, 70, 48, 80)
    assert interval.estimate == pytest.approx(0.2)
    assert interval.low == pytest.approx(0.0524, abs=5e-5)
    assert interval.high == pytest.approx(0.3339, abs=5e-5)


def test_newcombe_has_width_where_all_seeds_agree():
    # row h: 10/10 - 0/10, method 10: 0.6075 to 1
    interval = s.difference_of_fractions_interval(10, 10, 0, 10)
    assert interval.low == pytest.approx(0.6075, abs=5e-5)
    assert interval.high == pytest.approx(1.0)


def test_fraction_interval_counts_strictly_below():
    interval = s.fraction_interval([0.1, 0.49, 0.5, 0.9])
    assert (interval.estimate, interval.n) == (0.5, 4)


# --- two samples --------------------------------------------------------------------------------


def test_difference_agrees_with_scipy():
    generator = np.random.default_rng(5)
    a, b = generator.random(25), generator.random(30) - 0.4
    ours = s.difference_interval(a, b, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(6),
    ).confidence_interval
    assert ours.estimate == pytest.approx(a.mean() - b.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)
    assert ours.n == 25


def test_difference_with_a_single_seed_stays_open():
    interval = s.difference_interval([0.9], [0.1, 0.2, 0.3])
    assert np.isnan(interval.low) and np.isnan(interval.high) and interval.n == 1


def test_cohens_d_by_hand():
    # means 3 and 1, both variances 1, pooled sd 1
    assert s.cohens_d([2.0, 3.0, 4.0], [0.0, 1.0, 2.0]) == 2.0
    assert s.cohens_d([1.0, 1.0], [0.0, 0.0]) == np.inf
    assert s.cohens_d([0.0, 0.0], [1.0, 1.0]) == -np.inf
    assert s.cohens_d([1.0, 1.0], [1.0, 1.0]) == 0.0


def test_cliffs_delta_by_hand():
    # pairs: 1>0, 1=1, 2>0, 2>1 -> (3 wins - 0 losses) / 4
    assert s.cliffs_delta([1.0, 2.0], [0.0, 1.0]) == 0.75
    assert s.cliffs_delta([0.0], [1.0]) == -1.0


@FAST
@given(samples, samples)
def test_cliffs_delta_is_mann_whitney(a, b):
    u = scipy.stats.mannwhitneyu(a, b, method="asymptotic").statistic
    assert s.cliffs_delta(a, b) == pytest.approx(2.0 * u / (len(a) * len(b)) - 1.0)
    assert s.cliffs_delta(a, b) == pytest.approx(-s.cliffs_delta(b, a))


# --- several tasks ------------------------------------------------------------------------------


def test_stratified_bootstrap_keeps_tasks_apart():
    # Without spread within tasks there is none at all, however far the tasks lie apart.
    interval = s.stratified_bootstrap_interval([[0.0, 0.0, 0.0], [10.0, 10.0]], np.mean)
    assert interval == (4.0, 4.0, 4.0, 2)
    assert s.bootstrap_interval([0.0, 0.0, 0.0, 10.0, 10.0]).high > 4.0


def test_stratified_bootstrap_takes_a_matrix():
    scores = np.random.default_rng(0).random((3, 6))
    interval = s.stratified_bootstrap_interval(scores)
    assert interval.estimate == pytest.approx(scipy.stats.trim_mean(scores, 0.25, axis=None))
    assert interval.low < interval.estimate < interval.high and interval.n == 6


def test_probability_of_improvement_by_hand():
    # task 1: 3 wins and a tie of 4 -> 0.875; task 2: never -> 0
    interval = s.probability_of_improvement([[1.0, 2.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]])
    assert interval.estimate == pytest.approx(0.4375)
    assert 0.0 <= interval.low <= interval.estimate <= interval.high <= 0.5


def test_probability_of_improvement_interval_equals_brute_force():
    generator = np.random.default_rng(3)
    a, b = generator.random(8), generator.random(9) - 0.2
    ours = s.probability_of_improvement(a, b, resamples=4000)
    draws = [
        (1 + s.cliffs_delta(generator.choice(a, 8), generator.choice(b, 9))) / 2 for _ in range(4000)
    ]  # the definition, resampled by hand
    np.testing.assert_allclose([ours.low, ours.high], np.quantile(draws, [0.025, 0.975]), atol=0.03)


def test_performance_profile_by_hand():
    profile = s.performance_profile([[0.0, 1.0], [1.0, 2.0]], [-1.0, 0.0, 1.0, 2.0])
    np.testing.assert_array_equal(profile.fraction, [1.0, 0.75, 0.25, 0.0])
    assert np.all(profile.low <= profile.fraction) and np.all(profile.fraction <= profile.high)
    assert (profile.low[0], profile.high[3]) == (1.0, 0.0)


# --- trends -------------------------------------------------------------------------------------


def test_slope_of_a_line_is_exact():
    interval = s.slope_interval([0.0, 1.0, 2.0, 3.0], [5.0, 3.0, 1.0, -1.0])
    assert interval.estimate == pytest.approx(-2.0)
    assert interval.low <= -2.0 <= interval.high <= 0.0


def test_slope_equals_scipy_and_brute_force_over_clusters():
    generator = np.random.default_rng(4)
    clusters = np.repeat(np.arange(12), 5)
    x = np.tile(np.arange(5.0), 12)
    y = 0.3 * x + generator.standard_normal(12)[clusters] + 0.1 * generator.standard_normal(60)
    interval = s.slope_interval(x, y, clusters, resamples=4000)
    assert interval.estimate == pytest.approx(scipy.stats.linregress(x, y).slope)
    assert interval.n == 12
    draws = []
    for _ in range(1500):
        rows = np.concatenate([np.flatnonzero(clusters == c) for c in generator.integers(0, 12, 12)])
        draws.append(np.polyfit(x[rows], y[rows], 1)[0])
    np.testing.assert_allclose([interval.low, interval.high], np.quantile(draws, [0.025, 0.975]), atol=0.01)


@FAST
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=20))
def test_spearman_estimate_equals_scipy(pairs):
    x, y = np.array(pairs, dtype=float).T
    interval = s.spearman_interval(x, y, resamples=50)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(interval.estimate) and np.isnan(interval.low)
    else:
        assert interval.estimate == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
        assert -1.0 - 1e-9 <= interval.low <= interval.estimate <= interval.high <= 1.0 + 1e-9


def test_spearman_resamples_equal_brute_force_over_clusters():
    generator = np.random.default_rng(8)
    clusters = np.array(list("abcdefgh"))[np.repeat(np.arange(8), 6)]
    x = np.tile([0.0, 0.0, 1.0, 1.0, 2.0, 3.0], 8)
    y = -x + 2.0 * generator.standard_normal(48)
    interval = s.spearman_interval(x, y, clusters, resamples=3000)
    draws = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(clusters == c) for c in generator.choice(list("abcdefgh"), 8)])
        draws.append(scipy.stats.spearmanr(x[rows], y[rows]).statistic)
    np.testing.assert_allclose([interval.low, interval.high], np.quantile(draws, [0.025, 0.975]), atol=0.03)


def test_trends_do_not_depend_on_the_order_of_rows():
    generator = np.random.default_rng(9)
    x, y, seeds = generator.random(30), generator.random(30), np.repeat([3, 1, 2], 10)
    order = generator.permutation(30)
    for trend in (s.slope_interval, s.spearman_interval):
        np.testing.assert_allclose(
            trend(x, y, seeds, resamples=200), trend(x[order], y[order], seeds[order], resamples=200)
        )
        np.testing.assert_allclose(trend(x, y, resamples=200), trend(x[order], y[order], resamples=200))


def test_trend_within_a_single_cluster_stays_open():
    for trend in (s.slope_interval, s.spearman_interval):
        interval = trend([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [7, 7, 7])
        assert interval.estimate == pytest.approx(1.0) and np.isnan(interval.low) and interval.n == 1


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: s.normal_interval([]), "at least one entry"),
        (lambda: s.normal_interval([[1.0]]), "one-dimensional"),
        (lambda: s.bootstrap_interval([1.0, np.nan]), "1 non-finite entries of 2"),
        (lambda: s.bootstrap_interval([1.0, 2.0], resamples=0), "resamples=0"),
        (lambda: s.bootstrap_interval([1.0, 2.0], confidence=1.0), "confidence=1.0"),
        (lambda: s.wilson_interval(3, 2), "successes=3, n=2"),
        (lambda: s.wilson_interval(0, 0), "n >= 1"),
        (lambda: s.cohens_d([1.0], [2.0]), "three values"),
        (lambda: s.probability_of_improvement([[1.0], [2.0]], [[1.0]]), "2 tasks and b has 1"),
        (lambda: s.stratified_bootstrap_interval([]), "at least one task"),
        (lambda: s.slope_interval([1.0, 1.0], [0.0, 2.0]), "x is constant"),
        (lambda: s.slope_interval([1.0, 2.0], [0.0, 2.0], [1]), "clusters"),
        (lambda: s.spearman_interval([1.0, 2.0], [0.0]), "need equal"),
        (lambda: s.spearman_interval([1.0, np.inf], [0.0, 1.0]), "1 of 2 rows"),
        (lambda: s.iqm([]), "no values"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- collapse boundary --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([0.9, 0.8, 0.3, 0.2], (0.25, "interior")),  # 0.8 -> 0.3 crosses 0.55 half-way between 0.2 and 0.3
        ([0.9, 0.8, 0.7, 0.6], (0.4, "right-censored")),
        ([0.5, 0.4, 0.3, 0.2], (0.1, "left-censored")),
        ([0.9, 0.55, 0.2, 0.1], (0.2, "interior")),  # exactly on the cut-off, then below
        ([0.9, 0.55, 0.6, 0.7], (0.4, "right-censored")),  # touches and stays at or above
        ([0.55, 0.1, 0.1, 0.1], (0.1, "interior")),  # the crossing lies on the first point, it is not censored
        ([0.9, 0.2, 0.9, 0.2], (0.15, "interior")),  # not monotone: the first change counts
        ([0.2, 0.9, 0.9, 0.2], (0.15, "interior")),  # also when it goes upwards
        ([0.55, 0.55, 0.55, 0.55], (0.4, "right-censored")),
    ],
)
def test_collapse_boundary(means, expected):
    boundary = collapse_boundary([0.1, 0.2, 0.3, 0.4], means, 0.55)
    assert boundary.status == expected[1]
    assert boundary.value == pytest.approx(expected[0])


def test_collapse_boundary_sorts_the_grid_and_takes_one_point():
    assert collapse_boundary([0.3, 0.1, 0.2], [0.0, 1.0, 0.6], 0.5).value == pytest.approx(0.2 + 0.1 / 6)
    assert collapse_boundary([0.25], [0.9], 0.5) == (0.25, "right-censored")
    assert collapse_boundary([0.25], [0.1], 0.5) == (0.25, "left-censored")


@FAST
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8), st.floats(0.05, 0.95))
def test_collapse_boundary_lies_in_the_grid_and_on_the_cut_off(means, cutoff):
    grid = 0.1 + 0.05 * np.arange(len(means))
    value, status = collapse_boundary(grid, means, cutoff)
    assert grid[0] <= value <= grid[-1] + 1e-12
    if status == "interior":
        assert np.interp(value, grid, means) == pytest.approx(cutoff, abs=1e-6)
    else:
        assert value == (grid[-1] if status == "right-censored" else grid[0])


@pytest.mark.parametrize(
    ("grid", "means", "message"),
    [
        ([0.1, 0.1], [0.9, 0.2], "repeated"),
        ([0.1, 0.2], [0.9, np.nan], "not finite"),
        ([0.1, 0.2, 0.3], [0.9, 0.2], "one Dr a column"),
        ([], [], "one Dr a column"),
    ],
)
def test_collapse_boundary_refuses_bad_input(grid, means, message):
    with pytest.raises(ValueError, match=message):
        collapse_boundary(grid, means, 0.5)
