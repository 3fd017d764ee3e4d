"""Item index, exact top-k and batch scoring."""
