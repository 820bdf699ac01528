"""Recipes with ``encoders:``: a classifier on frozen encoders, with Transformers' Trainer, as a second host of runs.

Implements `cl_plugins.contract.host.Host`. Nothing here imports LLaMA-Factory.
"""

from __future__ import annotations
