"""The next batch is made while the last one is answered, and never more than that one."""

from __future__ import annotations

import threading

import pytest

from cl_plugins.generation.prefetch import ahead


def test_values_in_order_and_one_ahead():
    made, second = [], threading.Event()

    def make(number):
        made.append(number)
        if number == 1:
            second.set()
        return number * 10

    with ahead(make, [0, 1, 2, 3]) as values:
        assert next(values) == 0
        assert second.wait(60)  # made without being asked for
        assert 2 not in made
        assert list(values) == [10, 20, 30]
    assert made == [0, 1, 2, 3]


def test_made_in_another_thread_that_ends():
    threads = []

    def make(number):
        threads.append(threading.current_thread())

    with ahead(make, [0, 1]) as values:
        list(values)
    assert threading.current_thread() not in threads
    assert len(set(threads)) == 1
    assert not threads[0].is_alive()


def test_an_error_comes_where_its_value_is_asked_for():
    def make(number):
        if number == 1:
            raise ValueError("a broken picture")
        return number

    with ahead(make, [0, 1, 2]) as values:
        assert next(values) == 0
        with pytest.raises(ValueError, match="broken picture"):
            next(values)


def test_what_is_not_asked_for_is_not_made():
    made = []
    with ahead(made.append, range(10)) as values:
        next(values)
    assert len(made) <= 2


def test_nothing_to_make():
    with ahead(int, []) as values:
        assert list(values) == []
