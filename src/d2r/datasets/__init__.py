"""Where pictures and their ground truth come from: readers of data sets, and composers of new ones."""
