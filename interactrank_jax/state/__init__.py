"""What history knows: daily counts on disk, and features as of a day."""
