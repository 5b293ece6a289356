"""Errors that carry every problem at once."""

from __future__ import annotations

import pickle

import pytest

from retention.errors import CheckpointError, Checks, ConfigError, DataError, Problem, RetentionError


def test_the_message_counts_and_lists_the_problems() -> None:
    one = ConfigError([Problem("rho", "must be in (0, 1], got 1.7")])
    assert str(one) == "1 problem\n  rho: must be in (0, 1], got 1.7"
    two = ConfigError([Problem("rho", "bad"), Problem("dual.eta", "worse")])
    assert str(two) == "2 problems\n  rho: bad\n  dual.eta: worse"


@pytest.mark.parametrize(("key", "prefix", "path"), [("rho", "retention", "retention.rho"), ("rho", "", "rho")])
def test_a_problem_seen_from_above(key: str, prefix: str, path: str) -> None:
    assert Problem(key, "bad").under(prefix) == Problem(path, "bad")


def test_a_problem_of_the_node_itself_has_the_path_of_the_node() -> None:
    assert Problem("", "bad").under("retention").key == "retention"


def test_a_config_error_survives_a_process_boundary() -> None:
    error = ConfigError([Problem("a", "b"), Problem("c", "d")])
    copy = pickle.loads(pickle.dumps(error))
    assert copy.problems == error.problems and str(copy) == str(error)


@pytest.mark.parametrize("error", [ConfigError([]), DataError("x"), CheckpointError("x")])
def test_what_the_user_can_mend_has_one_base(error: Exception) -> None:
    assert isinstance(error, RetentionError) and isinstance(error, ValueError)


def test_checks_collect_before_they_raise() -> None:
    checks = Checks()
    assert checks.require(True, "fine", "never shown")
    assert not checks.require(False, "first", "one")
    checks.gather(lambda: None, "child")
    checks.gather(_fail, "child")
    checks.gather(_fail)
    with pytest.raises(ConfigError) as caught:
        checks.finish()
    assert [problem.key for problem in caught.value.problems] == ["first", "child.x", "child.y", "x", "y"]


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        Checks().gather(lambda: 1 // 0)


def test_nothing_found_raises_nothing() -> None:
    Checks().finish()


def _fail() -> None:
    raise ConfigError([Problem("x", "two"), Problem("y", "three")])
