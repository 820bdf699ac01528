"""Tiny models and data sets; they are part of the package, so that other packages can test their methods."""

from cl_plugins.testing.tiny import *
