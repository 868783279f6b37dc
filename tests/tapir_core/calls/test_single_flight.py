import pytest

from tapir_core.calls import Answer
from tapir_core.calls.asking import Claim, Flights

FINE = Answer("fine", "stop", 1, 1)


def test_the_first_owns_a_key_and_others_join_it():
    flights = Flights()
    with flights.claim(["a", "b"]) as first, flights.claim(["b", "c"]) as second:
        assert (set(first.own), set(second.own), set(second.joined)) == ({"a", "b"}, {"c"}, {"b"})
        first.resolve("b", FINE)
        assert second.joined["b"].result(timeout=1) == FINE


def test_who_comes_after_the_answer_and_before_its_asker_has_ended_joins_it_too():
    flights = Flights()
    with flights.claim(["a"]) as first:
        first.resolve("a", FINE)
        with flights.claim(["a"]) as late:
            assert late.joined["a"].result(timeout=1) == FINE


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_an_asker_leaves_open_is_given_up_and_free_again(error: type[BaseException]):
    flights = Flights()
    joined: list[Claim] = []

    def answer_one_and_break_off() -> None:
        with flights.claim(["a", "b"]) as claim:
            with flights.claim(["a", "b"]) as second:
                joined.append(second)
            claim.resolve("a", FINE)
            raise error

    with pytest.raises(error):
        answer_one_and_break_off()
    assert joined[0].joined["a"].result(timeout=1) == FINE
    assert joined[0].joined["b"].result(timeout=1) is None
    with flights.claim(["a", "b"]) as third:
        assert set(third.own) == {"a", "b"}
