"""The main job as a demonstration, and the checks that it went right."""
