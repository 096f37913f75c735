"""A detector says one thing in its rule, its vectorised form and its columns."""

from __future__ import annotations

import numpy as np
import pytest

from lib.charts.figures import COLOURS, SYMBOLS
from lib.dashboard.markup import STYLE
from lib.detectors.account_state import Rows, country_codes
from lib.detectors.detector import NULLS, Detector, Places
from lib.detectors.rules import DETECTORS, NAMES
from lib.detectors.thresholds import THRESHOLDS
from tests.unit.histories import event

each_detector = pytest.mark.parametrize("detector", DETECTORS, ids=NAMES)


@each_detector
def test_rule_and_vectorised_form_answer_the_columns(detector: Detector):
    one = event(0)
    row = Rows(
        ts=np.array([one.ts_us]),
        amount=np.array([one.amount_cents]),
        identity=np.zeros(1, np.uint64),
        fingerprint=np.zeros(1, np.uint64),
        country=country_codes([one.country]),
    )
    nowhere = np.zeros(1, np.int64)
    windows = [nowhere for _ in detector.windows(row.ts, THRESHOLDS)]
    places = Places(row, starts=nowhere, places=nowhere)

    names = [column.name for column in detector.columns]
    vectorised = detector.vectorised(places, windows, THRESHOLDS)

    assert list(detector.rule([one], 0, THRESHOLDS)) == names
    assert list(vectorised) == names
    for name, kind in detector.columns:
        assert vectorised[name].dtype.kind == np.array(NULLS[kind]).dtype.kind


@each_detector
def test_its_flag_is_its_first_column(detector: Detector):
    assert detector.columns[0] == (f"is_{detector.name}", "bool")


def test_no_two_look_alike():
    for signs in ("colour", "symbol", "hatch", "label"):
        assert len({getattr(each, signs) for each in DETECTORS}) == len(DETECTORS)


@each_detector
def test_charts_and_badges_take_its_colour(detector: Detector):
    assert COLOURS[detector.name] == detector.colour
    assert SYMBOLS[detector.name] == detector.symbol
    assert f".fs-{detector.name} {{ background: {detector.colour};" in STYLE


@each_detector
def test_a_badge_can_be_read(detector: Detector):
    """Contrast of 4.5 and more: https://www.w3.org/TR/WCAG21/#contrast-minimum."""
    light, dark = sorted(map(luminance, (detector.colour, detector.ink)), reverse=True)

    assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    digits = digits if len(digits) == 6 else "".join(d * 2 for d in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
