"""From result records and profiles to tables and pictures; needs neither torch nor a model."""

from retention.analysis.details import detail_table
from retention.analysis.picture import picture, write_picture
from retention.analysis.table import quality_table

__all__ = ["detail_table", "picture", "quality_table", "write_picture"]
