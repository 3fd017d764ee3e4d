"""Speed, each figure with a peer in the same run."""
