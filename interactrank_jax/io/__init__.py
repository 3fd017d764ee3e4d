"""Files, errors, signals: what every station writes and reads with."""
