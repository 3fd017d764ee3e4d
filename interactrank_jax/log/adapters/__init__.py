"""Public data sets and tables of ratings as logs."""
