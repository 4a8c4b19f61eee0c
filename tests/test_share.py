"""The rotating share of long lists: nothing vanishes, and every kind is always there."""

import pytest

from tests import share
from tests.faults.test_matrix import CASES, GROUPS
from tests.share import ROTATE, SEED, Share

LISTS = {"one": ["a"], "few": ["b", "c"], "many": [f"m{n}" for n in range(11)]}


@pytest.mark.parametrize("of", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("groups", [LISTS, GROUPS], ids=["by hand", "the fault matrix"])
def test_the_shares_together_are_all_cases_and_each_has_one_of_every_group(groups, of):
    shares = [Share(number, of).cases(groups) for number in range(of)]
    everything = [case for cases in groups.values() for case in cases]
    assert {case for cases in shares for case in cases} == set(everything)
    for chosen in shares:
        assert len(set(chosen)) == len(chosen)
        for cases in groups.values():
            assert set(chosen) & set(cases)


def test_a_share_of_four_is_about_a_quarter_of_the_long_lists():
    # Eleven cases in four shares: three, three, three and two; each short list gives one.
    sizes = sorted(len(Share(number, 4).cases(LISTS)) for number in range(4))
    assert sizes == [2 + 2, 2 + 3, 2 + 3, 2 + 3]


def test_the_matrix_has_no_case_outside_its_groups():
    assert [case for cases in GROUPS.values() for case in cases] != []
    assert sorted(case.id for cases in GROUPS.values() for case in cases) == sorted(
        case.id for case in CASES
    )


@pytest.fixture
def chosen(monkeypatch):
    """The share under these settings."""

    def ask(rotate=None, seed=None):
        for name, value in ((ROTATE, rotate), (SEED, seed)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        return share.share("fault matrix")

    return ask


def test_all_cases_run_unless_a_share_is_asked_for(chosen):
    assert chosen() == chosen("0") == Share(0, 1)
    assert str(chosen(seed="x")) == "all cases"


def test_the_seed_chooses_and_the_commit_is_the_default_seed(chosen, monkeypatch):
    numbers = {chosen("1", f"commit {n}").number for n in range(40)}
    assert numbers == {0, 1, 2, 3}
    monkeypatch.setattr(share, "_commit", lambda: "commit 7")
    assert chosen("1") == chosen("1", "commit 7")


def test_the_share_says_which_it_is_and_how_to_run_all():
    assert str(Share(2, 4, "abc")) == "share 3 of 4, chosen by abc; `make test-all` runs all"
