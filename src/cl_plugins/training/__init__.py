"""Training one task in any Transformers trainer: the terms, the guards, and what is written at the end."""
