"""The detectors' figures: what is drawn is what is in the frame."""

from __future__ import annotations

import pandas as pd
import pytest

from lib.charts import detector_figures
from lib.verify import evaluation

SWEPT = pd.DataFrame(
    {
        "score": ["z", "z", "z of ln"],
        "threshold": [2, 3, 2],
        "precision": [0.2, 0.5, None],
        "recall": [0.9, 0.6, 0.0],
        "alerts": [30.0, 10.0, 0.0],
    }
)


def test_sweep_draws_both_measures_of_each_score():
    figure = detector_figures.sweep(SWEPT, 3.5, "title")

    assert [trace.name for trace in figure.data] == ["z", "z of ln"] * 2
    assert list(figure.data[0].x) == [2, 3]
    assert list(figure.data[0].y) == [0.2, 0.5]
    assert list(figure.data[2].y) == [0.9, 0.6]
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]


def test_budget_draws_what_is_found_against_what_it_costs():
    figure = detector_figures.budget(SWEPT, "title")

    (z, _) = figure.data
    assert (list(z.x), list(z.y)) == ([30, 10], [0.9, 0.6])
    assert "alerts a day per 1,000 accounts" in figure.layout.xaxis.title.text


def test_intervals_reach_from_the_least_to_the_greatest():
    tables = {
        seed: pd.DataFrame({"recall": [value]}, index=["geo"])
        for seed, value in enumerate((0.1, 0.3, 0.2))
    }
    measured = evaluation.over_seeds(tables)
    figure = detector_figures.intervals(measured, {"recall": "good"}, "t", "x", "y")

    (trace,) = figure.data
    assert (list(trace.x), list(trace.y)) == (["geo"], [0.2])
    assert trace.error_y.array[0] == pytest.approx(0.1)
    assert trace.error_y.arrayminus[0] == pytest.approx(0.1)
