"""The HTML report of a sweep: what came of it, in one file that opens without a network.

`gather` reads, the `*_plots` draw with plotly, `page` puts it together; nothing writes to the
queue.
"""
