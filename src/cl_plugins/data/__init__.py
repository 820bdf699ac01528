"""Raw data sets become LLaMA-Factory files."""
