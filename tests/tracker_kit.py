"""What the tests of the tools outside share: one that writes down what it gets."""

from orchestrator.trackers.tracked import Known


class Notebook:
    """A tool that writes down what it gets, as tools keep it: by run and update."""

    where = "here"

    def __init__(self):
        self.points = {}
        self.states = {}
        self.begun = 0

    def known(self, run):
        """Everything up to the last update."""
        if run.key not in self.states:
            return None
        return Known(max(self.points[run.key], default=-1), self.states[run.key])

    def start(self, run):
        """Open the run's page."""
        self.begun += 1
        self.points.setdefault(run.key, {})
        self.states[run.key] = "running"
        return _Page(self, run.key)


class _Page:
    def __init__(self, book, key):
        self.book, self.key = book, key

    def metrics(self, points):
        """No update may come twice."""
        for point in points:
            assert point.update not in self.book.points[self.key], "sent twice"
            self.book.points[self.key][point.update] = point

    def finish(self, run):
        """Note how it stands."""
        self.book.states[self.key] = str(run.run.state)
