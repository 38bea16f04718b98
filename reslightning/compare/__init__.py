"""Runs beside each other: what is known of them, groups over seeds, tables, figures and a page; without torch."""
