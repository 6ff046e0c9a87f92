"""``medrega-pacs doctor``: what is wrong with a set-up, named, with what to do about it."""
