"""Commissioning: phantom studies of every kind through the hospital's own PACS and back, checked and put on file."""
