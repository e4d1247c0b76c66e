"""The local page: what runs, what came of it, and buttons; a process of its own.

No worker depends on it. `server.py` answers requests, `access.py` decides who may ask,
`reader.py` reads queue and folders, `shapes.py` says what the browser gets, `feed.py` notices what
is new, and `actions.py` changes what a button asks for.
"""
