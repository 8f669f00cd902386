"""Every measure against numbers worked out elsewhere: a known vector, scikit-learn, or by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from train.datasets.sample import VideoKey
from train.evaluation import metrics
from train.evaluation.metrics import FaceScore

# Few distinct scores on purpose: ties are where such code goes wrong.
PAIRS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.6, 0.75, 1.0])),
    min_size=2,
    max_size=40,
)
CELLS = st.lists(st.integers(0, 30), min_size=4, max_size=4)


def split(pairs):
    labels, scores = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    assume(0 < labels.sum() < labels.size)
    return labels, scores


@given(PAIRS)
def test_auc_agrees_with_scikit_learn(pairs):
    labels, scores = split(pairs)
    assert metrics.auc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores))


def test_ranking_measures_by_hand():
    labels = [0, 0, 0, 0, 1, 1, 1]
    scores = [0.1, 0.1, 0.3, 0.8, 0.9, 0.7, 0.3]
    fpr, tpr, thresholds = metrics.roc(labels, scores)
    # No point is dropped on a straight line, and equal scores share one.
    np.testing.assert_allclose(fpr, [0, 0, 1 / 4, 1 / 4, 1 / 2, 1])
    np.testing.assert_allclose(tpr, [0, 1 / 3, 1 / 3, 2 / 3, 1, 1])
    np.testing.assert_array_equal(thresholds, [np.inf, 0.9, 0.8, 0.7, 0.3, 0.1])
    assert metrics.auc(labels, scores) == pytest.approx(9.5 / 12)
    assert metrics.average_precision(labels, scores) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


@given(PAIRS)
def test_threshold_measures_agree_with_scikit_learn(pairs):
    labels, scores = split(pairs)
    answer = scores > 0.5
    assert metrics.accuracy(labels, scores) == pytest.approx(
        reference.accuracy_score(labels, answer)
    )
    assert metrics.macro_f1(labels, scores) == pytest.approx(
        reference.f1_score(labels, answer, average="macro", zero_division=1.0)
    )


@given(PAIRS)
def test_auc_counts_pairs_and_turns_over_with_the_scores(pairs):
    labels, scores = split(pairs)
    fakes, reals = scores[labels == 1][:, None], scores[labels == 0][None, :]
    wins = np.mean((fakes > reals) + 0.5 * (fakes == reals))
    assert metrics.auc(labels, scores) == pytest.approx(wins)
    assert metrics.auc(labels, -scores) == pytest.approx(1 - wins)


@given(PAIRS)
def test_interpolated_eer_lies_on_the_roc(pairs):
    labels, scores = split(pairs)
    rate = metrics.eer(labels, scores)
    fpr, tpr, _ = metrics.roc(labels, scores)
    # On a vertical stretch every TPR between its ends lies on the curve.
    below, above = np.max(tpr[fpr <= rate + 1e-12]), np.min(tpr[fpr >= rate - 1e-12])
    assert 0 <= rate <= 1
    assert min(below, above) - 1e-9 <= 1 - rate <= max(below, above) + 1e-9


def test_the_eer_lies_on_the_line_between_points_of_the_roc():
    labels = [0, 0, 0, 0, 0, 1, 1, 1]
    scores = [0.1, 0.2, 0.3, 0.4, 0.8, 0.9, 0.7, 0.35]
    # Points (FPR, TPR): (0, 1/3), (.2, 1/3), (.2, 2/3), (.4, 2/3), (.4, 1): the line 1 - x is
    # crossed on the stretch from (.2, 2/3) to (.4, 2/3) at x = 1/3.
    assert metrics.eer(labels, scores) == pytest.approx(1 / 3)


def test_image_row():
    row = metrics.measure_images([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9])
    assert (row.accuracy, row.auc, row.eer, row.average_precision) == (0.75, 1.0, 0.0, 1.0)
    assert row.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)


@pytest.mark.parametrize("measure", [metrics.auc, metrics.eer, metrics.average_precision])
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([], [], "nothing to measure"),
        ([1, 1], [0.2, 0.3], "all 2 labels are 1"),
        ([0, 0, 0], [0.2, 0.3, 0.1], "all 3 labels are 0"),
        ([0, 1], [0.2, np.nan], "1 of 2 scores are not finite"),
        ([0, 1], [np.inf, 0.1], "not finite"),
        ([0, 2], [0.2, 0.3], "labels must be 0"),
        ([0, 1, 1], [0.2, 0.3], "one length"),
    ],
)
def test_degenerate_scores_are_refused(measure, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        measure(labels, scores)


# Pixels

MATRIX = [[900, 30], [20, 50]]


def test_pixel_measures_of_the_known_matrix():
    row = metrics.pooled([MATRIX])
    assert row.accuracy == pytest.approx(0.95)
    assert row.f1_fake == pytest.approx(0.6667, abs=5e-5)
    assert row.f1_real == pytest.approx(0.97297, abs=5e-6)
    assert row.macro_f1 == pytest.approx(0.81982, abs=5e-6)
    assert row.iou_fake == pytest.approx(0.5)
    assert row.iou_real == pytest.approx(0.94737, abs=5e-6)
    assert row.miou == pytest.approx(0.72368, abs=5e-6)
    assert row.mcc == pytest.approx(0.64144, abs=5e-6)


@given(CELLS)
def test_pixel_measures_agree_with_scikit_learn(cells):
    matrix = np.array(cells).reshape(2, 2)
    assume(matrix.sum(axis=1).all())
    truth = np.repeat([0, 0, 1, 1], cells)
    guess = np.repeat([0, 1, 0, 1], cells)
    np.testing.assert_array_equal(metrics.confusion(truth, guess), matrix)
    row = metrics.pooled([matrix])
    scores = reference.f1_score(truth, guess, average=None, zero_division=1.0, labels=[0, 1])
    unions = reference.jaccard_score(truth, guess, average=None, zero_division=1.0, labels=[0, 1])
    np.testing.assert_allclose((row.f1_real, row.f1_fake), scores)
    np.testing.assert_allclose((row.iou_real, row.iou_fake), unions)
    assert row.mcc == pytest.approx(reference.matthews_corrcoef(truth, guess), abs=1e-9)


def test_mcc_survives_the_pixels_of_a_whole_test_set():
    billions = np.array(MATRIX, dtype=np.int64) * 4_000_000_000
    assert metrics.mcc(billions) == pytest.approx(0.64144, abs=5e-6)


def test_padding_is_left_out():
    truth = np.array([[0, 1, 255], [1, 255, 0]], dtype=np.uint8)
    guess = np.ones((2, 3), dtype=np.uint8)
    np.testing.assert_array_equal(metrics.confusion(truth, guess), [[0, 2], [0, 2]])


def test_pooled_and_per_image_differ():
    clean, half = [[100, 0], [0, 0]], [[90, 0], [5, 5]]
    both = metrics.per_image([clean, half])
    assert both.iou_fake == pytest.approx((1.0 + 0.5) / 2)
    assert both.mcc == pytest.approx(metrics.mcc(half))
    assert metrics.pooled([clean, half]).iou_fake == pytest.approx(0.5)
    assert metrics.per_image([clean]).mcc is None


def test_a_network_that_always_says_real_has_no_correlation():
    assert metrics.pooled([[[90, 0], [10, 0]]]).mcc == 0.0


def test_degenerate_pixels_are_refused():
    with pytest.raises(ValueError, match="empty"):
        metrics.pooled([])
    with pytest.raises(ValueError, match="nothing to measure"):
        metrics.per_image([])
    with pytest.raises(ValueError, match="all pixels of the truth are real"):
        metrics.pooled([[[9, 1], [0, 0]]])
    with pytest.raises(ValueError, match="apply the threshold"):
        metrics.confusion([0, 1], [0.2, 0.7])
    with pytest.raises(ValueError, match="not the same pixels"):
        metrics.confusion(np.zeros((2, 2)), np.zeros(4))


def test_pbca_pools_pixels_of_images_of_any_size():
    small, large = np.zeros((1, 1)), np.zeros((3, 3))
    assert metrics.pbca([(small, small + 0.9), (large, large + 0.4)]) == pytest.approx(9 / 10)
    with pytest.raises(ValueError, match="no maps"):
        metrics.pbca([])


def test_iinc_cases():
    empty = np.zeros((10, 10))
    left, whole = empty.copy(), np.ones((10, 10))
    left[:, :5] = 1
    assert metrics.iinc(empty, empty) == 0.0
    assert metrics.iinc(empty, left) == pytest.approx(1 / 2.5)
    assert metrics.iinc(left, empty) == pytest.approx(1 / 2.5)
    assert metrics.iinc(left, left) == pytest.approx(0.0)
    assert metrics.iinc(left, 1 - left) == pytest.approx(2 / 2)
    assert metrics.iinc(left, whole) == pytest.approx((2 - 0.5 - 1) / 2)


# Videos


def key(name, manipulation="Deepfakes"):
    return VideoKey("FF++", manipulation, name)


def test_aggregation_rules():
    video = key("a")
    faces = [
        FaceScore(video, 0, 0.2, area=100),
        FaceScore(video, 0, 0.8, area=60),
        FaceScore(video, 0, 1.0, area=10),  # too small beside the largest face
        FaceScore(video, 1, 0.4, area=100),
    ]
    assert metrics.video_scores(faces, "mean")[video] == pytest.approx(0.6)
    assert metrics.video_scores(faces, "median")[video] == pytest.approx(0.6)
    assert metrics.video_scores(faces, "max-then-mean")[video] == pytest.approx((0.8 + 0.4) / 2)
    assert metrics.video_scores(faces, "top-k", top=1)[video] == pytest.approx(1.0)
    assert metrics.video_scores(faces, "top-k", top=9)[video] == pytest.approx((1.0 + 0.4) / 2)


def test_equal_names_of_two_manipulations_stay_two_videos():
    scores = metrics.video_scores(
        [FaceScore(key("000_003"), 0, 0.9), FaceScore(key("000_003", "FaceSwap"), 0, 0.1)]
    )
    assert sorted(scores.values()) == [0.1, 0.9]


def test_a_video_without_a_face_is_not_forgotten():
    labels = {key("a"): 1, key("b"): 1, key("c", "real"): 0}
    scores = {key("a"): 0.9, key("c", "real"): 0.6}
    with pytest.raises(ValueError, match="1 of 3 videos have no score"):
        metrics.video_auc(scores, labels)
    assert metrics.video_auc(scores, labels, failed=0.5) == 0.5
    with pytest.raises(ValueError, match="have no label"):
        metrics.video_auc(scores | {key("d"): 0.5}, labels, failed=0.5)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="frame 3"):
        metrics.video_scores([FaceScore(key("a"), 3, float("nan"))])
    with pytest.raises(ValueError, match="nothing to aggregate"):
        metrics.video_scores([])


# Bootstrap


def test_bootstrap_is_repeatable_and_holds_the_value():
    random = np.random.default_rng(1)
    values = random.normal(size=60)
    groups = np.repeat(np.arange(20), 3).tolist()
    first = metrics.bootstrap(lambda i: values[i].mean(), groups, rounds=200, seed=5)
    assert first == metrics.bootstrap(lambda i: values[i].mean(), groups, rounds=200, seed=5)
    assert first != metrics.bootstrap(lambda i: values[i].mean(), groups, rounds=200, seed=6)
    assert first.low < first.value < first.high
    assert first.value == pytest.approx(values.mean())


def test_bootstrap_resamples_groups_not_frames():
    random = np.random.default_rng(2)
    level = np.repeat(random.normal(size=25), 40)  # all frames of a video say the same
    groups = np.repeat(np.arange(25), 40).tolist()
    grouped = metrics.bootstrap(lambda i: level[i].mean(), groups, rounds=300)
    single = metrics.bootstrap(lambda i: level[i].mean(), list(range(1000)), rounds=300)
    assert grouped.high - grouped.low > 3 * (single.high - single.low)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    trials = 120
    for seed in range(trials):
        random = np.random.default_rng(seed)
        effect = np.repeat(random.normal(size=40), 2)
        values = effect + 0.1 * random.normal(size=80)
        groups = np.repeat(np.arange(40), 2).tolist()
        _, low, high = metrics.bootstrap(
            lambda i, values=values: values[i].mean(), groups, rounds=150, seed=seed
        )
        covered += low <= 0.0 <= high
    assert 0.86 <= covered / trials <= 0.995


def test_bootstrap_redraws_what_is_undefined():
    labels = np.array([1, 0, 0, 0])
    scores = np.array([0.9, 0.1, 0.2, 0.95])

    def statistic(indices):
        return metrics.auc(labels[indices], scores[indices])

    found = metrics.bootstrap(statistic, list("abcd"), rounds=50)
    assert found.value == pytest.approx(2 / 3)
    assert 0.0 <= found.low <= found.high <= 1.0
    with pytest.raises(ValueError, match="undefined in most draws"):
        metrics.bootstrap(statistic_of_the_whole(4), list("abcd"), rounds=20)


def statistic_of_the_whole(size):
    def statistic(indices):
        if len(set(indices.tolist())) < size:
            raise ValueError("needs every group")
        return 1.0

    return statistic


@pytest.mark.parametrize(
    ("groups", "message"),
    [(["a", "a"], "1 groups"), ([], "0 groups")],
)
def test_bootstrap_refuses_bad_groups(groups, message):
    with pytest.raises(ValueError, match=message):
        metrics.bootstrap(lambda i: 0.0, groups)


@settings(max_examples=20)
@given(st.floats(-10, 10), st.integers(2, 12))
def test_bootstrap_of_a_constant_is_the_constant(value, count):
    got = metrics.bootstrap(lambda i: value, list(range(count)), rounds=5)
    assert got == (value, value, value)
