"""Extras of a laboratory for cl_plugins."""
