"""The run: plan (pure), journal, lock, and the loop that knows no method by name."""
