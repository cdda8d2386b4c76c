"""Draw at most one box on each picture of a folder, in a local web page, into the files of Google Landmark Boxes."""
