"""Stands for `swanlab.integration`."""
