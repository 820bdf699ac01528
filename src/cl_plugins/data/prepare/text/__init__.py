"""Benchmarks of texts alone: no picture, and often no download beyond a few JSON files."""
