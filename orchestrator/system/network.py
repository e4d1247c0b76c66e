"""Under which names other machines of the local network know this one."""

import socket


def lan_names() -> list[str]:
    """This machine's address in the local network first, then its names there."""
    name = socket.gethostname()
    local = name if name.endswith(".local") else f"{name}.local"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: it only asks which of our addresses would be used.
            probe.connect(("192.0.2.1", 9))
            address = [probe.getsockname()[0]]
        except OSError:
            address = []
    return [*address, local, name]
