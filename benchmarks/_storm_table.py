"""What the storms print."""


def table(first, counted, wrong):
    """A line about the storm, its counts by title, its faults; Markdown."""
    lines = [first, ""]
    for title, counts in counted.items():
        lines += [f"| {title} | times |", "|---|---:|"]
        lines += [f"| {name} | {n} |" for name, n in counts.items()]
        lines += [f"| all | {sum(counts.values())} |", ""]
    lines += [f"{len(wrong)} faults", *wrong] if wrong else ["nothing lost, nothing doubled"]
    return "\n".join(lines)
