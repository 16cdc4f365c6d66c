"""From numbers to tables, figures and one self-contained page. Takes plain dictionaries and arrays."""

from kdhash.report.page import write_report
from kdhash.report.tables import table_markdown, table_text

__all__ = ["table_markdown", "table_text", "write_report"]
