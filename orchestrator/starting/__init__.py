"""A sweep of one's own from nothing: the files that `init` writes, from three answers.

`rows.py` looks at the rows, `files.py` writes what a sweep needs, and `night.py` says how long it
will take.
"""
