"""From a log (Parquet tables) to examples (blocks of requests), and the input pipeline."""
