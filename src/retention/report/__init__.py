"""From result records and profiles to tables and pictures; needs neither torch nor a model."""

from retention.report.details import detail_table
from retention.report.quality_table import quality_table
from retention.report.token_heatmap import picture, write_picture

__all__ = ["detail_table", "picture", "quality_table", "write_picture"]
