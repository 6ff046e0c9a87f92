"""Sources: the archives that studies, priors and counts are fetched from, by whichever protocol."""
