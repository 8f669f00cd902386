"""The table of exit codes, whole."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest

from deepscan.exit_codes import ERROR, FOUND, INCONCLUSIVE, INTERRUPTED, OK, ExitPolicy
from deepscan.types import Label
from deepscan.wording import counted

PLAIN = {
    Label.MANIPULATED: 1,
    Label.SUSPICIOUS: 0,
    Label.NO_EVIDENCE: 0,
    Label.INCONCLUSIVE: 3,
    Label.NOT_APPLICABLE: 0,
    Label.ERROR: 2,
}


def test_the_numbers_are_those_that_scripts_know():
    assert (OK, FOUND, ERROR, INCONCLUSIVE, INTERRUPTED) == (0, 1, 2, 3, 130)


@pytest.mark.parametrize("label", Label)
def test_each_label_without_options(label):
    assert ExitPolicy().code([label]) == PLAIN[label]


@pytest.mark.parametrize(
    ("policy", "changed"),
    [
        (ExitPolicy(fail_on_suspicious=True), {Label.SUSPICIOUS: 1}),
        (ExitPolicy(require_face=True), {Label.NOT_APPLICABLE: 3}),
        (ExitPolicy(allow_inconclusive=1), {Label.INCONCLUSIVE: 0}),
        (ExitPolicy(exit_zero=True), dict.fromkeys(Label, 0)),
        (ExitPolicy(require_face=True, allow_inconclusive=1), {
            Label.NOT_APPLICABLE: 3, Label.INCONCLUSIVE: 0,
        }),
    ],
)  # fmt: skip
def test_an_option_changes_its_label_and_no_other(policy, changed):
    for label in Label:
        assert policy.code([label]) == {**PLAIN, **changed}[label]


def test_over_several_files_2_comes_before_1_before_3_before_0():
    order = [2, 1, 3, 0]
    for size in (2, 3):
        for labels in combinations(Label, size):
            worst = min((PLAIN[label] for label in labels), key=order.index)
            for arranged in permutations(labels):
                assert ExitPolicy().code(arranged) == worst


def test_so_many_inconclusive_files_are_let_pass_and_no_more():
    policy = ExitPolicy(allow_inconclusive=2)
    assert policy.code([Label.INCONCLUSIVE] * 2) == OK
    assert policy.code([Label.INCONCLUSIVE] * 3) == INCONCLUSIVE


def test_only_exit_zero_makes_an_error_a_success():
    for number in range(8):
        policy = ExitPolicy(bool(number & 1), bool(number & 2), bool(number & 4))
        assert policy.code([Label.ERROR, Label.NO_EVIDENCE]) == ERROR
        assert policy.code([Label.MANIPULATED, Label.INCONCLUSIVE]) == FOUND


def test_counts_name_every_label_that_occurs():
    assert counted([Label.ERROR]) == "1 file: 1 error"
    labels = [Label.NO_EVIDENCE, Label.MANIPULATED, Label.NO_EVIDENCE]
    assert counted(labels) == "3 files: 1 manipulated, 2 no-evidence"
    assert counted([]) == "0 files: nothing scanned"
    told = counted(Label)
    assert all(str(label) in told for label in Label)
