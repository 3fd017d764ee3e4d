"""What history knows: daily counts, user timelines and the catalogue, looked up as of a request."""
