"""Generating answers with a model in memory."""
