"""Dashboards as code: for operators, for a domain's owner, and for the on-call engineer."""
