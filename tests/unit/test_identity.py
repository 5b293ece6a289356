"""Test the labels that tell runs apart by their settings."""

from __future__ import annotations

from typing import Any

from retention.records.identity import incidental_differences, settings, variants


def configs(*values: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [{"config": value} for value in values]


def test_only_differing_settings_are_named() -> None:
    one = {"retention": {"beta": 0.66, "gamma": -0.1}, "epochs": 3}
    two = {"retention": {"beta": 1.0, "gamma": -0.1}, "epochs": 5}
    assert variants(configs(one, two)) == ["epochs=3, retention.beta=0.66", "epochs=5, retention.beta=1.0"]


def test_short_label_omits_settings_that_vary_together() -> None:
    settings = [(0, 3, 0.1), (0, 3, 0.4), (1, 5, 0.1)]
    records = configs(*({"a": a, "epochs": epochs, "lr": lr} for a, epochs, lr in settings))
    assert variants(records, short=True) == ["a=0, lr=0.1", "a=0, lr=0.4", "a=1, lr=0.1"]
    assert variants(records)[0] == "a=0, epochs=3, lr=0.1"


def test_short_label_names_groups_only_where_necessary() -> None:
    records = configs(
        *(
            {"a": {"x": x, "n": 1}, "b": {"x": other, "m": m}}
            for x, other, m in ((0, 1, 2), (1, 0, 2), (1, 1, 3), (1, 1, 2))
        )
    )
    assert variants(records, short=True)[0] == "a.x=0, m=2, b.x=1"
    assert variants(records)[0] == "a.x=0, b.m=2, b.x=1"


def test_missing_settings_have_their_defaults() -> None:
    records = configs({"budgets": {"sampled": 0}}, {"budgets": {"sampled": 1}}, {}, {"distill": {"saliency": 3.0}})
    assert variants(records) == ["", "budgets.sampled=1", "", "distill.saliency=3.0"]


def test_baselines_of_a_run_were_trained_like_it() -> None:
    main_run = {"compare": ["dense", "random"], "task": {"compare": ["dense"], "epochs": 2}}
    baseline = {"compare": [], "task": {"compare": ["dense"], "epochs": 2}}
    assert settings(main_run) == settings(baseline)
    assert settings({**baseline, "task": {"epochs": 3}}) != settings(baseline)


def test_repetitions_share_an_empty_label() -> None:
    one = {"seed": 1, "data": {"seed": 1, "dir": "sets/a"}, "teacher": "outputs/1/last.ckpt", "paths": {"run": "x"}}
    two = {"seed": 2, "data": {"seed": 2, "dir": None}, "teacher": "outputs/2/last.ckpt", "paths": {"run": "y"}}
    assert variants(configs(one, two)) == ["", ""]


def test_seed_of_the_training_rows_is_named_where_it_is_not_that_of_the_run() -> None:
    def config(seed: int, data_seed: int) -> dict[str, Any]:
        return {"seed": seed, "data": {"seed": data_seed}, "task": {"data": {"seed": data_seed}}}

    assert variants(configs(config(0, 0), config(0, 1))) == ["", "data.seed=1"]
    assert variants(configs(config(0, 0), config(1, 1))) == ["", ""], "follows the seed"
    assert variants(configs(config(0, 0), config(1, 0), config(2, 0))) == ["", "", ""], "the same rows for all seeds"
    assert settings(config(0, 1)) != settings(config(0, 0)) == settings(config(1, 1))


def test_differences_that_do_not_tell_runs_apart() -> None:
    one = {"seed": 0, "trainer": {"precision": "32-true", "num_workers": 0}, "paths": {"devices": 1}}
    other = {"seed": 0, "trainer": {"precision": "bf16-mixed", "num_workers": 2, "devices": 1}}
    assert incidental_differences(one, other) == ["trainer.precision=32-true (not bf16-mixed)"]
    assert incidental_differences(one, one) == []


def test_missing_setting_without_default_reads_as_null() -> None:
    assert variants(configs({"epochs": 3}, None)) == ["epochs=3", "epochs=null"]


def test_target_keep_ratio_is_not_named() -> None:
    records = [{"config": {"retention": {"rho": rho, "seed": 0}}} for rho in (0.3, 0.5)]
    assert variants(records) == ["", ""]


def test_tested_checkpoint_has_the_backbone_settings_of_its_training() -> None:
    fitted = {"mode": "fit", "backbone": {"_target_": "Pretrained", "attention_dropout": 0.0}}
    tested = {"mode": "test", "backbone": {"_target_": "Saved"}, "trained_backbone": fitted["backbone"]}
    assert variants(configs(fitted, tested)) == ["", ""]


def test_precision_is_not_named() -> None:
    records = [{"config": {"trainer": {"precision": precision}}} for precision in ("32-true", "bf16-mixed")]
    assert variants(records) == ["", ""]


def test_runs_with_and_without_a_start_are_told_apart_whatever_its_path() -> None:
    starts = ["runs/0/last.ckpt", "other/1/last.ckpt", None]
    labels = variants(configs(*({"init": start, "ckpt": start} for start in starts)))
    assert labels[0] == labels[1] != labels[2] and "ckpt" not in "".join(labels)


def test_defaults_come_from_constructors_and_the_main_configuration_file() -> None:
    policy = {"_target_": "retention.policies.Adaptive", "beta": 0.66}
    old, new = {"retention": policy}, {"retention": {**policy, "decay": 0.9, "ranking_noise": 0.0}, "freeze": None}
    assert variants(configs(old, new)) == ["", ""]
    assert settings(old)["retention.decay"] == 0.9 and settings(old)["distill.weight"] == 0.0
    other = {"retention": {**policy, "decay": 0.5}}
    assert variants(configs(old, other)) == ["", "retention.decay=0.5"]


def test_defaults_that_changed_keep_their_earlier_value() -> None:
    node = {"_target_": "retention.policies.ltp.LTP"}
    calibrated = {"retention": {**node, "calibrate_threshold": True}}
    assert variants(configs({"retention": node}, calibrated)) == ["", "retention.calibrate_threshold=True"]


def test_earlier_and_present_class_names_have_the_same_defaults() -> None:
    names = ("retention.modules.ClassificationModule", "retention.tasks.classification.head.ClassificationHead")
    first, second = [settings({"task": {"head": {"_target_": name}}}) for name in names]
    assert first == second and first["task.head.protect"] == "special"


def test_repaired_policies_differ_from_records_made_before_the_repair() -> None:
    repaired = {
        "top.ToP": {"rate": 10.0, "frozen": True},
        "ltp.LTP": {"frozen": True},
        "power_bert.PowerBert": {"frozen": True},
        "transkimmer.Transkimmer": {"predictor": "layer_norm", "soft_gates": True},
        "infor_coef.InforCoef": {"predictor": "layer_norm", "soft_gates": True},
        "tome.ToMe": {"unmerge": True},
    }
    for target, added in repaired.items():
        node = {"_target_": f"retention.policies.{target}", **({"rate": 5.0} if "LTP" in target else {})}
        old, new = variants(configs({"retention": node}, {"retention": {**node, **added}}))
        assert old == "" and new == ", ".join(f"retention.{key}={value}" for key, value in sorted(added.items()))
