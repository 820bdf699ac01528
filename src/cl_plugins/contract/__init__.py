"""What methods, runs and hosts agree on: protocols and small records without behaviour."""
