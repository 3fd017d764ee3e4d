"""Scripts that print one table or figure each."""
