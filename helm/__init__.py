"""The chart, and what is made for it: the table of its values, dashboards, alert rules."""
