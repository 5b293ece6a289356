"""Test models inside the wrappers of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.engine import encoder_of
from retention.errors import ConfigError
from retention.policies import Truncate, retain


class AdapterWrapper(nn.Module):
    """Wrapper like that of PEFT: its ``base_model`` is not the encoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base_model = nn.ModuleDict({"model": model})
        self.config = model.config

    def get_base_model(self) -> Any:
        return self.base_model["model"]

    def forward(self, **inputs: Any) -> Any:
        return self.get_base_model()(**inputs)


def test_encoder_is_found_inside_an_adapter_wrapper(tiny: Callable[..., Any], ids: Tensor) -> None:
    wrapped = AdapterWrapper(tiny("BertForSequenceClassification"))
    with torch.no_grad(), retain(wrapped, Truncate(rho=0.3).eval()) as retainer:
        wrapped(input_ids=ids)
    assert retainer.encoder is wrapped.get_base_model().bert
    assert sorted(retainer.report.kept) == [0, 1, 2]


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS", "FEATURE_EXTRACTION"])
def test_encoder_is_found_inside_peft(task: str, tiny: Callable[..., Any], ids: Tensor) -> None:
    peft = pytest.importorskip("peft")
    names = {"SEQ_CLS": "BertForSequenceClassification", "TOKEN_CLS": "BertForTokenClassification"}
    settings = peft.LoraConfig(task_type=task, target_modules=["query"])
    model = peft.get_peft_model(tiny(names.get(task, "BertModel")), settings).eval()
    with torch.no_grad(), retain(model, Truncate(rho=0.3).eval()) as retainer:
        model(input_ids=ids)
    assert sorted(retainer.report.kept) == [0, 1, 2]


def test_encoder_is_found_inside_a_compiled_model(tiny: Callable[..., Any]) -> None:
    model = tiny("BertForSequenceClassification")
    assert encoder_of(torch.compile(model, backend="eager")) is model.bert


def test_data_parallel_model_is_refused_with_the_remedy(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny()
    with pytest.raises(ConfigError, match=r"DistributedDataParallel, trainer\.strategy=ddp"):
        retain(nn.DataParallel(model), Truncate(rho=0.3))
    with torch.no_grad(), retain(model, Truncate(rho=0.3).eval()) as retainer:  # the remedy: the model inside it
        model(input_ids=ids)
    assert sorted(retainer.report.kept) == [0, 1, 2]


def test_module_that_is_no_hugging_face_model_is_refused_with_the_remedy(tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"got a Sequential; pass the model inside it"):
        retain(nn.Sequential(tiny()), Truncate(rho=0.3))


def test_encoder_without_the_layers_of_its_family_is_refused(tiny: Callable[..., Any]) -> None:
    model = tiny()
    del model.encoder
    with pytest.raises(ConfigError, match="cannot find the layers of a BertModel"):
        retain(model, Truncate(rho=0.3))


def test_encoder_with_fewer_layers_than_configured_is_refused(tiny: Callable[..., Any]) -> None:
    model = tiny()
    model.encoder.layer = model.encoder.layer[:2]
    with pytest.raises(ConfigError, match="has 2 layers, its configuration says 4"):
        retain(model, Truncate(rho=0.3))
