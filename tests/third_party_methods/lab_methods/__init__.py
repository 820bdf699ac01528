"""Methods of a laboratory for cl_plugins."""
