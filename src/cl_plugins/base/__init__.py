"""The ground floor: errors, schema, durable files, locks, ranks. Imports nothing else of the package."""
