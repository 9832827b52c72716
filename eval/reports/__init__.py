"""A report for people and for other programs: a page with plots, a model card's index."""

from eval.reports.index import model_index
from eval.reports.page import page
from eval.reports.pdf import to_pdf

__all__ = ["model_index", "page", "to_pdf"]
