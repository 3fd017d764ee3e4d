"""ItemQueryPerf: what history knows of this query with this item, as of every request."""
