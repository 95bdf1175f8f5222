"""The kinds of problem that an export may have, each the beginning of a sentence; docs/medforget.md says what
becomes of what they count."""

# Reports.
NO_REPORT = "studies without a report"
EMPTY_REPORT = "reports that are empty"
LONG_REPORT = "reports of more than 1 MiB, left out"
UNREADABLE_REPORT = "reports that cannot be read, left out"
OTHER_ENCODING = "reports in another encoding than UTF-8, read as Windows-1252"
NUL_BYTES = "reports with NUL bytes, read without them"
NO_SECTIONS = "reports without sections"
REPEATED_SECTION = "reports with several findings or impressions, joined"
DIFFERING_REPORTS = "studies whose rows give different reports, of which the first is read"
REPORT_NOT_THERE = "reports that are not there"

# Images.
UNREADABLE_IMAGE = "images that do not decode, left out"
LARGE_IMAGE = "images of more than 80 million pixels, left out"
IMAGE_NOT_THERE = "images that are not there"

# Ids and paths.
NO_NODE_NAME = "ids that cannot be the name of a node, left out"
SHARED_STUDY = "study ids that several patients have, left out"
SHARED_PATIENT = "patient ids that several institutions have, left out"
OUTSIDE = "paths that leave the export, left out"
UNKNOWN_FILE = "files that fit no layout, left out"
UNREADABLE_FOLDER = "folders that cannot be read, left out"

# Tables.
MALFORMED_ROW = "rows that are malformed, left out"
STUDY_NOT_THERE = "studies that a table names and that are not there"
TABLE_IMAGE_NOT_THERE = "images that a table names and that are not there"
OTHER_PATIENT = "rows that give a study to another patient than its folder, left out"
STUDY_WITHOUT_LABELS = "studies that the label tables do not name"
IMAGE_WITHOUT_METADATA = "images that the metadata do not name"
DIFFERING_LABELS = "labels on which CheXpert and NegBio disagree, of which CheXpert's is taken"
DIFFERING_ROWS = "studies whose rows disagree, of which the first is taken"
