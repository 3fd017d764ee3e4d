"""The daily loop: from a log that grew by a day to a published bundle, by the other commands."""
