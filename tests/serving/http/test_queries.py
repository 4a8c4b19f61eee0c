"""What a request asks for, without a service.

Each check runs in a process of its own: kserve and Triton's client define the same messages, and
cannot be loaded together.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import zygote

SCRIPT = Path(__file__).with_name("queries_of_requests.py")


def check(name):
    process = zygote.start([SCRIPT, name], zygote.environment(), script=True)
    assert process.wait(60) == 0, process.said


def test_ids_of_19_digits_are_the_same_as_text_and_as_numbers():
    check("ids_of_19_digits")


def test_text_that_no_id_of_64_bits_has_is_nobody():
    check("text_that_is_no_id_of_64_bits")


def test_an_id_may_be_as_long_as_the_longest_that_was_trained_on():
    check("ids_as_long_as_those_of_the_data")


@pytest.mark.parametrize("name", ["forms_of_the_data", "no_form"])
def test_an_id_is_found_in_the_forms_of_the_data_and_in_no_other(name):
    check(name)


@pytest.mark.parametrize(
    "name", ["the_moment_of_a_request", "queries_at_different_moments_are_one_call"]
)
def test_a_request_may_say_its_moment(name):
    check(name)


def test_a_session_may_be_of_a_known_user_or_of_nobody():
    check("sessions")


def test_a_request_may_tell_attributes_of_somebody_new():
    check("attributes_of_somebody_new")


def test_a_request_chooses_items_and_how_a_list_is_put_together():
    check("choosing")
