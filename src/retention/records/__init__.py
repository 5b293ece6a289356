"""Result records: configuration, data, environment and results of a run, one JSON object each."""

from retention.records.check_results import Reliability, Theory
from retention.records.cost_results import InferenceMemory, Latency, Limits, Speed
from retention.records.files import (
    append_missing_record,
    append_record,
    read_numbered,
    read_objects,
    read_records,
    write_atomic,
    write_record,
    write_records,
)
from retention.records.model_results import Decoding, Embedding
from retention.records.plain import Record
from retention.records.run_results import Paired, Quality, Rescore, Validation
from retention.records.schema import build_record

__all__ = [
    "Decoding",
    "Embedding",
    "InferenceMemory",
    "Latency",
    "Limits",
    "Paired",
    "Quality",
    "Record",
    "Reliability",
    "Rescore",
    "Speed",
    "Theory",
    "Validation",
    "append_missing_record",
    "append_record",
    "build_record",
    "read_numbered",
    "read_objects",
    "read_records",
    "write_atomic",
    "write_record",
    "write_records",
]
