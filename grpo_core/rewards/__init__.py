"""Built-in rewards, and reward plug-ins in a process of their own."""
