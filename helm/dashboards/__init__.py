"""Dashboards as code: for operators, for a domain's owner, and for whoever is called at night."""
