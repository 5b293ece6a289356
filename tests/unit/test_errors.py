"""Test error classes and the collection of configuration problems."""

from __future__ import annotations

import pickle

import pytest

from retention.errors import (
    CheckpointError,
    Checks,
    ConfigError,
    DataError,
    Problem,
    RetentionError,
    option_names,
    require,
)


def test_config_error_message_counts_and_lists_problems() -> None:
    one = ConfigError([Problem("rho", "must be in (0, 1], got 1.7")])
    assert str(one) == "1 problem\n  rho: must be in (0, 1], got 1.7"
    two = ConfigError([Problem("rho", "bad"), Problem("dual.eta", "worse")])
    assert str(two) == "2 problems\n  rho: bad\n  dual.eta: worse"


@pytest.mark.parametrize(("key", "prefix", "path"), [("rho", "retention", "retention.rho"), ("rho", "", "rho")])
def test_problem_under_prefix(key: str, prefix: str, path: str) -> None:
    assert Problem(key, "bad").under(prefix) == Problem(path, "bad")


def test_problem_without_key_takes_the_prefix_as_key() -> None:
    assert Problem("", "bad").under("retention").key == "retention"


def test_config_error_can_be_pickled() -> None:
    error = ConfigError([Problem("a", "b"), Problem("c", "d")])
    copy = pickle.loads(pickle.dumps(error))
    assert copy.problems == error.problems and str(copy) == str(error)


@pytest.mark.parametrize("error", [ConfigError([]), DataError("x"), CheckpointError("x")])
def test_user_errors_share_a_base_class(error: Exception) -> None:
    assert isinstance(error, RetentionError) and isinstance(error, ValueError)


def test_checks_collect_all_problems() -> None:
    checks = Checks()
    assert checks.require(True, "fine", "never shown")
    assert not checks.require(False, "first", "one")
    checks.gather(lambda: None, "child")
    checks.gather(_fail, "child")
    checks.gather(_fail)
    with pytest.raises(ConfigError) as caught:
        checks.finish()
    assert [problem.key for problem in caught.value.problems] == ["first", "child.x", "child.y", "x", "y"]


def test_gather_lets_other_errors_through() -> None:
    with pytest.raises(ZeroDivisionError):
        Checks().gather(lambda: 1 // 0)


def test_finish_without_problems_raises_nothing() -> None:
    Checks().finish()


def test_gather_returns_the_result_of_the_check() -> None:
    assert Checks().gather(lambda: 3) == 3
    assert Checks().gather(_fail) is None


def test_require_raises_at_once() -> None:
    require(True, "rho", "never shown")
    with pytest.raises(ConfigError) as caught:
        require(False, "rho", "must be in (0, 1], got 2")
    assert caught.value.problems == (Problem("rho", "must be in (0, 1], got 2"),)


def _fail() -> None:
    raise ConfigError([Problem("x", "two"), Problem("y", "three")])


def test_options_replace_whole_keys_of_the_configuration() -> None:
    text = "/a/data.dir/x: point data.dir to it, pass data.dir=<folder>, not task.data.dir or data.dirs; see data.dir."
    with pytest.raises(DataError) as data_error, option_names({"data.dir": "--data"}):
        raise DataError(text)
    replaced = "/a/data.dir/x: point --data to it, pass --data <folder>, not task.data.dir or data.dirs; see --data."
    assert str(data_error.value) == replaced
    with pytest.raises(ConfigError) as config_error, option_names({"retention.rho": "--rho"}):
        raise ConfigError([Problem("retention.rho", "lower retention.rho"), Problem("retention.rho_end", "bad")])
    assert config_error.value.problems == (Problem("--rho", "lower --rho"), Problem("retention.rho_end", "bad"))
    assert str(config_error.value) == "2 problems\n  --rho: lower --rho\n  retention.rho_end: bad"
