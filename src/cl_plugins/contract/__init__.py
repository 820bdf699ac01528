"""What methods, runs and hosts agree on: protocols and small records, no behaviour of any one of them."""
