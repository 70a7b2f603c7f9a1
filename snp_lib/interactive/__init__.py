"""Widgets to play with in a page or beside a live kernel."""
