"""Names of the log contract that stations after preparation need too; imports nothing."""

STAGES = ("shown", "retrieved", "random")  # of candidates; 1, 2, 3 in the column, 0 is padding
OPTIONAL_COLUMNS = ("propensity", "stage", "teacher_score")
