"""A control that cannot see manipulation: logistic regression on the colours of a crop.

If mean and spread of L, a and b alone separate fakes from real ones, the data set has a shortcut
(other cameras, other codecs, other light), and a network's figure on it means less than it seems.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from train.evaluation.predict import Prediction

FOLDS = 5
Floats = NDArray[np.float64]


def colour_scores(predictions: Sequence[Prediction]) -> Floats:
    """P(manipulated) of each crop by its colours, fitted on other videos.

    A fake and the real video that it was made from lie in the same fold.

    Raises:
        ValueError: there are too few videos to leave some out.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    groups = [str(one.group) for one in predictions]
    labels = np.array([one.label for one in predictions])
    colours = np.stack([one.colours for one in predictions]).astype(np.float64)
    folds = min(FOLDS, len(set(groups)))
    if folds < 2:
        raise ValueError("all crops are of one video: none can be left out")
    scores = np.empty(len(predictions))
    for fitted, left_out in GroupKFold(folds).split(colours, labels, groups):
        if len(set(labels[fitted])) < 2:
            raise ValueError("without one fold only one class is left: too few videos")
        # Even classes, as the measure is: the share of fakes in a set is no information.
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        model.fit(colours[fitted], labels[fitted])
        scores[left_out] = model.predict_proba(colours[left_out])[:, 1]
    return scores
