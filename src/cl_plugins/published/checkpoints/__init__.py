"""Weights that others have published, in the layouts of their code.

`files` reads tensors and nothing else, `names` brings their names to one form, `llava_base` writes a base of the original
LLaVA in the layout of Transformers, and `adapters` reads what trainings on it have left.
"""
