"""What the agent says of itself over HTTP: alive, ready, healthy, and in numbers."""
