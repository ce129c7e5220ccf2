"""Report: one HTML page, and tables for the terminal, from plan, record and verdict alone."""

from trimodal.reporting.page import build_page, render_page, report
from trimodal.reporting.table import make_inventory_table, make_summary

__all__ = ["make_inventory_table", "build_page", "render_page", "report", "make_summary"]
