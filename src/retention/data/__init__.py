"""Data modules: benchmarks as token rows, batched by length."""

from retention.data.abstractive import AbstractiveData
from retention.data.articles import ArticleData
from retention.data.base import RetentionData
from retention.data.batching import Batch
from retention.data.benchmark import BenchmarkData
from retention.data.cuad_clauses import CuadClauseData
from retention.data.cuad_spans import CuadSpanData
from retention.data.keywords import KeywordData
from retention.data.labelled_text import LabelledTextData
from retention.data.qasper import QasperData
from retention.data.question_answering import QuestionAnsweringData
from retention.data.settings import DataSettings
from retention.data.summarization import SummarizationData
from retention.data.text_classification import TextClassificationData

__all__ = [
    "AbstractiveData",
    "ArticleData",
    "Batch",
    "BenchmarkData",
    "CuadClauseData",
    "CuadSpanData",
    "DataSettings",
    "KeywordData",
    "LabelledTextData",
    "QasperData",
    "QuestionAnsweringData",
    "RetentionData",
    "SummarizationData",
    "TextClassificationData",
]
