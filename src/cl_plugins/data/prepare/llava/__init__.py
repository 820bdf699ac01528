"""Benchmarks that are distributed as JSON in LLaVA's layout: MLLM-CL, MSLoRA-CR, CoIN and UCIT."""
