"""Evidence from a frame list is that of the scan which wrote the list."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepscan.sinks.frames import line_of
from deepscan.verdict.evidence import Evidence, from_frame_list, windows_of
from tests.conftest import CALIBRATION
from tests.sinks import build


@pytest.mark.parametrize("mask", [True, False])
def test_a_frame_list_holds_the_evidence_of_its_scan(mask: bool) -> None:
    seen, lines = Evidence(), []
    for result in build.results(build.scan(info=build.video()), images=False):
        faces = result.faces
        if not mask:
            faces = tuple(replace(face, mask=None) for face in faces)
        result = replace(result, faces=faces)
        seen.add(result)
        lines.append(line_of(result))
    read = from_frame_list(lines)
    assert read.step == pytest.approx(seen.step)
    ours = windows_of(read, CALIBRATION, still=False)
    judged = {track: each for track, each in windows_of(seen, CALIBRATION, still=False).items()
              if len(each.times)}  # fmt: skip
    assert judged and ours.keys() == judged.keys()
    for track, each in judged.items():
        assert ours[track].times == pytest.approx(each.times)
        assert ours[track].llr == pytest.approx(each.llr, abs=2e-3)
        assert ours[track].alone.tolist() == each.alone.tolist()
        assert np.isnan(ours[track].shares).all() != mask
        sharpness = ours[track].series.sharpness.tolist()
        assert sharpness == pytest.approx(each.series.sharpness.tolist(), abs=0.01)
        assert ours[track].series.sides.tolist() == pytest.approx(
            each.series.sides.tolist(), abs=0.2
        )


def test_a_list_of_an_earlier_version_does_not_say_how_sharp_a_face_is() -> None:
    face = {"p_manipulated": 0.5, "track": 0, "box": [0, 0, 9, 9], "mask_share": None}
    with pytest.raises(KeyError, match="detail"):
        from_frame_list([{"time": 0.0, "faces": [face]}])
