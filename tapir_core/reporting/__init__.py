"""What people read of a run: summaries, tables, plots, the run card and `report.html`."""
