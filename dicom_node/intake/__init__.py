"""What arrives: which object it is, that it is safe, and when its study is complete."""
