"""From a log to examples, and from examples to batches."""
