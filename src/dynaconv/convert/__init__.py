"""From networks that exist to dynamic ones: published and static checkpoints."""

from dynaconv.convert.load import LoadReport, load_published

__all__ = ["LoadReport", "load_published"]
