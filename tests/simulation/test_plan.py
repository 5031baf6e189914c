from __future__ import annotations

import pytest

from emod.simulation import Passage, passage_samples, piece_samples


@pytest.mark.parametrize(
    ("duration_s", "valence", "arousal", "complaint"),
    [
        (0.0, 1.0, 1.0, "duration_s is 0.0"),
        (float("nan"), 1.0, 1.0, "duration_s is nan"),
        (1.0, 1.0, None, "together"),
        (1.0, None, 1.0, "together"),
        (1.0, 4.1, 0.0, "valence is 4.1"),
        (1.0, 0.0, -4.1, "arousal is -4.1"),
        (1.0, float("nan"), 0.0, "valence is nan"),
    ],
)
def test_a_meaningless_passage_is_refused(
    duration_s: float, valence: float | None, arousal: float | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Passage(duration_s, "1", "clip", valence, arousal)


def test_rest_is_the_absence_of_a_state_not_its_origin() -> None:
    assert Passage(1.0, "1").rest
    assert not Passage(1.0, "1", "clip", 0.0, 0.0).rest


def test_each_passage_is_rounded_on_its_own() -> None:
    third = Passage(1 / 3, None)
    assert passage_samples(third, 128.0) == 43
    assert piece_samples((third, third, third), 128.0) == 129  # the sum of the parts, not round(1 s * 128)
