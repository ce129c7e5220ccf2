"""Report: one HTML page, and tables for the terminal, from plan, record and verdict alone."""

from trimodal.reporting.page import page_of, render, report
from trimodal.reporting.table import inventory_table, summary

__all__ = ["inventory_table", "page_of", "render", "report", "summary"]
