"""The console: pages for the people who run the node and for those who read its findings."""
