"""Labels of differing settings."""

from __future__ import annotations

from typing import Any

from retention.records.identity import variants


def configs(*values: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [{"config": value} for value in values]


def test_only_what_differs_is_named() -> None:
    one = {"retention": {"beta": 0.66, "gamma": -0.1}, "epochs": 3}
    two = {"retention": {"beta": 1.0, "gamma": -0.1}, "epochs": 5}
    assert variants(configs(one, two)) == ["epochs=3, retention.beta=0.66", "epochs=5, retention.beta=1.0"]


def test_a_short_label_leaves_out_what_goes_along() -> None:
    settings = [(0, 3, 0.1), (0, 3, 0.4), (1, 5, 0.1)]
    records = configs(*({"a": a, "epochs": epochs, "lr": lr} for a, epochs, lr in settings))
    assert variants(records, short=True) == ["a=0, lr=0.1", "a=0, lr=0.4", "a=1, lr=0.1"]
    assert variants(records)[0] == "a=0, epochs=3, lr=0.1"


def test_a_short_label_names_groups_only_where_it_must() -> None:
    records = configs(
        *(
            {"a": {"x": x, "n": 1}, "b": {"x": other, "m": m}}
            for x, other, m in ((0, 1, 2), (1, 0, 2), (1, 1, 3), (1, 1, 2))
        )
    )
    assert variants(records, short=True)[0] == "a.x=0, m=2, b.x=1"
    assert variants(records)[0] == "a.x=0, b.m=2, b.x=1"


def test_the_absence_of_a_later_option_is_not_named() -> None:
    records = configs({"budgets": {"sampled": 0}}, {"budgets": {"sampled": 1}}, {}, {"distill": {"saliency": 3.0}})
    assert variants(records) == ["", "budgets.sampled=1", "", "distill.saliency=3.0"]


def test_repetitions_share_an_empty_label() -> None:
    one = {"seed": 1, "data": {"seed": 1, "dir": "sets/a"}, "teacher": "outputs/1/last.ckpt", "paths": {"run": "x"}}
    two = {"seed": 2, "data": {"seed": 2, "dir": None}, "teacher": "outputs/2/last.ckpt", "paths": {"run": "y"}}
    assert variants(configs(one, two)) == ["", ""]


def test_an_absent_setting_reads_as_null() -> None:
    assert variants(configs({"distill": 0.5}, None)) == ["distill=0.5", "distill=null"]


def test_the_asked_share_is_no_variant() -> None:
    records = [{"config": {"retention": {"rho": rho, "seed": 0}}} for rho in (0.3, 0.5)]
    assert variants(records) == ["", ""]


def test_a_tested_checkpoint_stands_with_the_runs_like_its_training() -> None:
    fitted = {"mode": "fit", "backbone": {"_target_": "Pretrained", "attention_dropout": 0.0}}
    tested = {"mode": "test", "backbone": {"_target_": "Saved"}, "trained_backbone": fitted["backbone"]}
    assert variants(configs(fitted, tested)) == ["", ""]


def test_the_machines_precision_is_no_variant() -> None:
    records = [{"config": {"trainer": {"precision": precision}}} for precision in ("32-true", "bf16-mixed")]
    assert variants(records) == ["", ""]
